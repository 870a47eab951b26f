"""Jobs of the model by kernels of our own, where one fits, else in plain PyTorch (`plain`).

On a CPU they are in C: a step of a few tokens, which is bound by reading the weights, and prompts in bfloat16.
"""

from mygpt.kernels import plain as plain
from mygpt.kernels.cpu.attention import CacheStep as CacheStep
from mygpt.kernels.cpu.attention import attend as attend
from mygpt.kernels.cpu.block import FusedBlockKernel as FusedBlockKernel
from mygpt.kernels.cpu.isa import allows as allows
from mygpt.kernels.cpu.isa import hold_torch
from mygpt.kernels.cpu.library import describe as describe
from mygpt.kernels.cpu.library import prepare as prepare
from mygpt.kernels.cpu.ops import dense_matrix as dense_matrix
from mygpt.kernels.cpu.ops import fourbit_matrix as fourbit_matrix
from mygpt.kernels.cpu.ops import int8_matrix as int8_matrix
from mygpt.kernels.cpu.shm import LostRankError as LostRankError
from mygpt.kernels.cpu.shm import SharedMemoryGroup as SharedMemoryGroup
from mygpt.kernels.cpu.structs import Matrix as Matrix
from mygpt.kernels.jobs import gated_linear as gated_linear
from mygpt.kernels.jobs import linear as linear
from mygpt.kernels.jobs import multiply as multiply
from mygpt.kernels.jobs import rms_norm as rms_norm

hold_torch()  # importing computes nothing, so this comes before torch's first look at the variables

"""Kernels in C for the CPU: a step of a few tokens, which is bound by reading the weights, and prompts in bfloat16.

Each has a plain PyTorch counterpart in the model's code, which is taken wherever the kernel does not fit.
"""

from mygpt.kernels.cpu.attention import MAX_GROUP as MAX_GROUP
from mygpt.kernels.cpu.attention import Attention as Attention
from mygpt.kernels.cpu.attention import attend as attend
from mygpt.kernels.cpu.attention import attends as attends
from mygpt.kernels.cpu.attention import attention_call as attention_call
from mygpt.kernels.cpu.block import Block as Block
from mygpt.kernels.cpu.block import fits_block as fits_block
from mygpt.kernels.cpu.build import library as library
from mygpt.kernels.cpu.ops import ACTIVATIONS as ACTIVATIONS
from mygpt.kernels.cpu.ops import MAX_ROWS as MAX_ROWS
from mygpt.kernels.cpu.ops import Matrix as Matrix
from mygpt.kernels.cpu.ops import fits as fits
from mygpt.kernels.cpu.ops import fits_gated as fits_gated
from mygpt.kernels.cpu.ops import fits_linear as fits_linear
from mygpt.kernels.cpu.ops import fits_many as fits_many
from mygpt.kernels.cpu.ops import fits_norm as fits_norm
from mygpt.kernels.cpu.ops import fits_tiles as fits_tiles
from mygpt.kernels.cpu.ops import fourbit_matrix as fourbit_matrix
from mygpt.kernels.cpu.ops import gate as gate
from mygpt.kernels.cpu.ops import gated_linear as gated_linear
from mygpt.kernels.cpu.ops import has_fourbit as has_fourbit
from mygpt.kernels.cpu.ops import int8_matrix as int8_matrix
from mygpt.kernels.cpu.ops import linear as linear
from mygpt.kernels.cpu.ops import matrix as matrix
from mygpt.kernels.cpu.ops import multiply as multiply
from mygpt.kernels.cpu.ops import multiply_many as multiply_many
from mygpt.kernels.cpu.ops import rms_norm as rms_norm
from mygpt.kernels.cpu.shm import LostRankError as LostRankError
from mygpt.kernels.cpu.shm import Team as Team
from mygpt.kernels.cpu.shm import team_bytes as team_bytes

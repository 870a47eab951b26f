"""Sums over the processes of one machine, in memory that they share."""

from __future__ import annotations

import ctypes
import mmap
import os

import torch
from torch import Tensor

from mygpt.kernels.cpu.library import active, ready
from mygpt.kernels.cpu.ops import threads_for
from mygpt.kernels.cpu.structs import TYPES, GroupState, address

_LINE = 64  # bytes of a rank's header: shm.c's
_CAPACITY = (
    1 << 20
)  # bytes of a buffer: a step's sums of any model fit, and a prefill's go through it in turns
_PROCESS = 8  # where a header holds the process's number


class LostRankError(RuntimeError):
    """A rank ended while the others waited for it."""


class SharedMemoryGroup:
    """The ranks of one machine. All call the same methods in the same order, with x of the same shape and dtype."""

    def __init__(self, rank: int, size: int, file: int) -> None:
        """Rank `rank` of `size`; `file` is open, of `nbytes(size)` zeros at first, and the same for all of them."""
        library = active()
        assert library is not None, "a group needs kernels"
        self.library = library
        self.memory = mmap.mmap(file, self.nbytes(size))
        process = rank * _LINE + _PROCESS
        self.memory[process : process + 8] = os.getpid().to_bytes(8, "little")
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        crowded = size * torch.get_num_threads() > len(os.sched_getaffinity(0))
        self.state = GroupState(start, rank, size, _CAPACITY, -1, crowded, 0)

    @staticmethod
    def nbytes(size: int) -> int:
        """What `size` ranks share."""
        return size * (_LINE + 2 * _CAPACITY)

    def takes(self, x: Tensor) -> bool:
        """Whether the methods take x."""
        return ready(x) is not None

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of the ranks' x, on each of them, the same to the bit; added up in float32.

        Raises:
            LostRankError: a rank has ended.
        """
        x = x.contiguous()
        y = torch.empty_like(x)
        pointers = TYPES[x.dtype], x.data_ptr(), x.numel(), y.data_ptr()
        self.library.c.mygpt_shm_all_reduce(threads_for(x), self.state, *pointers)
        self._check()
        return y

    def gather(self, x: Tensor) -> Tensor | None:
        """The ranks' x, which are of one shape, stacked: on rank 0.

        Raises:
            LostRankError: a rank has ended.
        """
        x = x.contiguous()
        y = x.new_empty((self.state.size, *x.shape)) if self.state.rank == 0 else None
        self.library.c.mygpt_shm_gather(self.state, x.data_ptr(), x.nbytes, address(y))
        self._check()
        return y

    def _check(self) -> None:
        if self.state.lost >= 0:
            raise LostRankError(f"rank {self.state.lost} has ended")

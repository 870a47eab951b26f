"""Sums over the processes of one machine, in memory that they share."""

from __future__ import annotations

import ctypes
import mmap
import os
from ctypes import c_long, c_uint64, c_void_p

import torch
from torch import Tensor

from mygpt.kernels.cpu.build import library
from mygpt.kernels.cpu.ops import TYPES, threads_for

_LINE = 64  # bytes, of a rank's seat: team.c's
_CAPACITY = (
    1 << 20
)  # bytes of a buffer: a step's sums of any model fit, and a prefill's go through it in turns
_PROCESS = 8  # where a seat holds the process's number


class _Team(ctypes.Structure):
    _fields_ = (
        ("memory", c_void_p),
        ("rank", c_long),
        ("size", c_long),
        ("capacity", c_long),
        ("lost", c_long),
        ("crowded", c_long),
        ("count", c_uint64),
    )


def team_bytes(size: int) -> int:
    """What a team of `size` ranks shares."""
    return size * (_LINE + 2 * _CAPACITY)


class LostRankError(RuntimeError):
    """A rank ended while the others waited for it."""


class Team:
    """The ranks of one machine. All call the same methods in the same order, with an x that `fits_many`."""

    def __init__(self, rank: int, size: int, file: int) -> None:
        """Rank `rank` of `size`; `file` is open, of `team_bytes(size)` zeros at first, and the same for all of them."""
        found = library()
        assert found is not None, "a team needs kernels"
        self.library = found
        self.memory = mmap.mmap(file, team_bytes(size))
        seat = rank * _LINE + _PROCESS
        self.memory[seat : seat + 8] = os.getpid().to_bytes(8, "little")
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        crowded = size * torch.get_num_threads() > len(os.sched_getaffinity(0))
        self.state = _Team(address, rank, size, _CAPACITY, -1, crowded, 0)

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of the ranks' x, on each of them, the same to the bit; added up in float32."""
        x = x.contiguous()
        y = torch.empty_like(x)
        pointers = TYPES[x.dtype], c_void_p(x.data_ptr()), c_long(x.numel()), c_void_p(y.data_ptr())
        self.library.mygpt_team_sum(threads_for(x), ctypes.byref(self.state), *pointers)
        self.check()
        return y

    def gather(self, x: Tensor) -> Tensor | None:
        """The ranks' x, which are of one shape, stacked: on rank 0."""
        x = x.contiguous()
        y = x.new_empty((self.state.size, *x.shape)) if self.state.rank == 0 else None
        pointers = c_void_p(x.data_ptr()), c_long(x.nbytes), c_void_p(0 if y is None else y.data_ptr())
        self.library.mygpt_team_gather(ctypes.byref(self.state), *pointers)
        self.check()
        return y

    def check(self) -> None:
        """See that no rank was lost in what has been done together.

        Raises:
            LostRankError: one was.
        """
        if self.state.lost >= 0:
            raise LostRankError(f"rank {self.state.lost} has ended")

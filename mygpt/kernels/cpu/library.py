"""The compiled kernels, loaded: found once for a level, and asked whether they can work on a tensor."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mygpt.kernels.cpu import isa
from mygpt.kernels.cpu.build import NoKernelsError, build
from mygpt.kernels.cpu.structs import BY_UNIT, BY_VECTORS, CONSTANTS, FUNCTIONS, MAX_ROWS, TYPES

# Rows up to which the kernels for few rows are best in bfloat16 on a CPU whose matrix unit only torch can use.
MAX_ROWS_BESIDE_AMX = 4
_log = logging.getLogger(__name__)


class Library:
    """The kernels of a level.

    Attributes:
        has_fourbit: whether they multiply with weights of 4 bits (AVX512-VNNI).
        has_tiles: whether many rows of bfloat16 are theirs to multiply: by the CPU's matrix unit (AMX), else by
            AVX512-BF16. Not where the system keeps the unit from us, nor where only torch can use it, the compiler
            being too old.
        max_rows: rows of x, by its dtype, that they are the fastest to multiply unquantized weights with where there
            are no tiles: with more, arithmetic is the limit, and torch is better at it (benchmarks/linear.py).
        name: what statistics call them.
    """

    def __init__(self, path: Path, level: str) -> None:
        """Load a compiled file.

        Raises:
            OSError, AttributeError: the file is not a library, or not of these sources.
            NoKernelsError: its structs are not those of `mygpt.kernels.cpu.structs`.
        """
        self.c: Any = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments
        for name, value in CONSTANTS.items():
            if self.c.mygpt_constant(name.encode()) != value:
                raise NoKernelsError(f"C and Python differ in {name}")
        tiles = self.c.mygpt_tiles_by()
        torch_has_amx = isa.allows("amx", level) and torch.cpu._is_amx_tile_supported()
        self.has_tiles = tiles == BY_UNIT or (tiles == BY_VECTORS and not torch_has_amx)
        self.has_fourbit = bool(self.c.mygpt_has_fourbit())
        beside_amx = torch_has_amx and not self.has_tiles
        self.max_rows = {
            torch.float32: MAX_ROWS,
            torch.bfloat16: MAX_ROWS_BESIDE_AMX if beside_amx else MAX_ROWS,
        }
        self.name = "avx512+amx" if tiles == BY_UNIT else "avx512" if level == "amx" else level


@functools.cache
def load(level: str) -> tuple[Library | None, str]:
    """The kernels of a level, and their name for statistics: `none: ` and the reason where there are none."""
    try:
        if level == "none":
            raise NoKernelsError("MYGPT_ISA=none")
        library = build(level, lambda path: Library(path, level))
    except NoKernelsError as reason:
        _log.debug("no kernels: %s", reason.__cause__ or reason)
        return None, f"none: {reason}"
    return library, library.name


def active() -> Library | None:
    """The kernels of the level that is held (`isa.level`)."""
    return load(isa.level())[0]


def ready(x: Tensor) -> Library | None:
    """The kernels, where they can work on x: it is on a CPU that has some, and nothing records what is done to it.

    To be asked before anything about x's sizes: each such question is a guard in compiled code.
    """
    if torch.compiler.is_compiling() or not x.is_cpu or x.dtype not in TYPES or x.requires_grad:
        return None
    return active() if x.numel() > 0 else None


def prepare() -> bool:
    """Find the kernels: the first time ever this compiles them. Returns whether there are any."""
    return active() is not None


def describe() -> str:
    """For statistics: the kernels' instruction sets, as `avx512+amx`, or `none: ` and why there are none."""
    return load(isa.level())[1]

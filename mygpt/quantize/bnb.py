"""bitsandbytes, imported when it is first needed, without what it says at that."""

from __future__ import annotations

import ctypes
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mygpt import kernels
from mygpt.errors import InputError


@functools.cache
def bitsandbytes() -> ModuleType:
    """The package, `bitsandbytes.functional` with it; its operators are then in `torch.ops.bitsandbytes`.

    Raises:
        InputError: it is not installed.
    """
    try:
        with _quietly_and_quickly():
            import bitsandbytes
            import bitsandbytes.functional
    except ImportError as error:
        raise InputError(
            f"quantized weights need bitsandbytes ({error}); pip install 'bitsandbytes>=0.50'"
        ) from error
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")
    return bitsandbytes


@contextmanager
def _quietly_and_quickly() -> Iterator[None]:
    """Without its warning of kernels that could be downloaded, and without torch's compiler.

    It wraps fallbacks, and optimizers, in `torch.compile`, which takes 2 s to import: longer than a small model takes
    to load. The fallbacks of CPUs run as they are, where a first call would wait for the compiler even longer.
    """
    logger, compile_ = logging.getLogger("bitsandbytes"), torch.compile
    level = logger.level

    def plain(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return function

    logger.setLevel(logging.ERROR)
    torch.compile = plain  # type: ignore[assignment]
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.compile = compile_


# The functions below call the library as bitsandbytes' operators do. Those check for 20 us, as long as a small product
# takes, and at the first call they import torch's compiler, which takes over a second.

_SUFFIXES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def dequantize_on_cpu(
    rows: Tensor, absmax: Tensor, block_size: int, quant_type: str, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """A matrix (N, K) of 4 bits in floats, K even and blocks of less than 2048; `absmax` is float32, not nested."""
    weight = torch.empty(shape, dtype=dtype)
    dequantize = getattr(
        bitsandbytes().functional.lib, f"cdequantize_blockwise_cpu_{quant_type}_{_SUFFIXES[dtype]}"
    )
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rows, absmax, weight)]
    dequantize(*pointers, *(ctypes.c_longlong(size) for size in (block_size, *shape)))
    return weight


def has_fast_cpu_kernel() -> bool:
    """Whether bitsandbytes has its product of 4-bit weights for this CPU, which takes AVX512-BF16."""
    return kernels.allows("avx512") and bool(bitsandbytes().functional.has_avx512bf16())

"""bitsandbytes, imported when it is first needed, without what it says at that."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

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


def has_fast_cpu_kernel() -> bool:
    """Whether bitsandbytes has its product of 4-bit weights for this CPU, which takes AVX512-BF16."""
    return kernels.allows("avx512") and bool(bitsandbytes().functional.has_avx512bf16())

"""bitsandbytes, imported when it is first needed, without what it says at that."""

from __future__ import annotations

import functools
import logging
import warnings
from types import ModuleType

from mygpt.errors import InputError


@functools.cache
def bitsandbytes() -> ModuleType:
    """The package, `bitsandbytes.functional` with it; its operators are then in `torch.ops.bitsandbytes`.

    Raises:
        InputError: it is not installed.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of kernels that could be downloaded
    try:
        import bitsandbytes
        import bitsandbytes.functional
    except ImportError as error:
        raise InputError(
            f"quantized weights need bitsandbytes ({error}); pip install 'bitsandbytes>=0.50'"
        ) from error
    finally:
        logger.setLevel(level)
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")
    return bitsandbytes


@functools.cache
def has_fast_cpu_kernel() -> bool:
    """Whether bitsandbytes has its product of 4-bit weights for this CPU, which takes AVX512-BF16."""
    return bool(bitsandbytes().functional.has_avx512bf16())

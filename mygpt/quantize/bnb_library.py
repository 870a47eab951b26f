"""bitsandbytes: the package, and its library of functions for CPUs without the package.

The package's operators import torch's compiler when the first is called, and its fallbacks are wrapped in
`torch.compile`: 2 s, longer than a small model takes to load. So on a CPU mygpt calls the library itself, and the
package is for GPUs and for compiled code.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import platform
import warnings
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from mygpt import kernels
from mygpt.errors import InputError

_ADVICE = "pip install 'bitsandbytes>=0.50'"
_SUFFIXES = {"Darwin": ".dylib", "Windows": ".dll"}
# Of 4-bit numbers, by their code (`functional.get_4bit_type`).
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
_LEVELS = {
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    "fp4": (*(level / 12 for level in _FP4), *(0.0 - level / 12 for level in _FP4)),
}
QUANT_TYPES = tuple(_LEVELS)


@functools.cache
def bitsandbytes() -> ModuleType:
    """The package, `bitsandbytes.functional` with it; its operators are then in `torch.ops.bitsandbytes`.

    Raises:
        InputError: it is not installed.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)  # no warning of kernels that could be downloaded
    try:
        import bitsandbytes
        import bitsandbytes.functional
    except ImportError as error:
        raise InputError(f"quantized weights need bitsandbytes ({error}); {_ADVICE}") from error
    finally:
        logger.setLevel(level)
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")
    return bitsandbytes


@functools.cache
def cpu_library() -> ctypes.CDLL:
    """The package's functions for CPUs, without importing it.

    Raises:
        InputError: it is not installed, or not for this system.
    """
    spec = importlib.util.find_spec("bitsandbytes")
    if spec is None or spec.origin is None:
        raise InputError(f"quantized weights need bitsandbytes, which is not installed; {_ADVICE}")
    suffix = _SUFFIXES.get(platform.system(), ".so")
    try:
        return ctypes.CDLL(str(Path(spec.origin).with_name(f"libbitsandbytes_cpu{suffix}")))
    except OSError as error:
        raise InputError(f"bitsandbytes has no library for this CPU ({error}); {_ADVICE}") from error


def has_fast_cpu_kernel() -> bool:
    """Whether bitsandbytes has its product of 4-bit weights for this CPU, which takes AVX512-BF16."""
    if not kernels.allows("avx512"):
        return False
    try:
        detect = cpu_library().has_avx512bf16_cpu
    except AttributeError:  # built for another kind of CPU
        return False
    detect.restype = ctypes.c_bool
    return bool(detect())


@functools.cache
def levels(quant_type: str) -> Tensor:
    """What each code of a 4-bit type stands for, (16,) float32."""
    return torch.tensor(_LEVELS[quant_type])


@functools.cache
def nested_levels() -> Tensor:
    """The levels of scales in 8 bits, (256,) float32, in order (arXiv:2110.02861, section 1.3).

    Source: `functional.create_dynamic_map`.
    """
    found = [0.0, 1.0]
    for bits in range(7):  # of the fraction; the others, but the sign, are of the exponent
        ends = torch.linspace(0.1, 1, 2**bits + 1)
        means = (10 ** (bits - 6)) * ((ends[:-1] + ends[1:]) / 2)
        found += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(found))


_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_MOST_BLOCK_SIZE = 2048  # from here on the library is inexact (bitsandbytes `backends/cpu/ops.py`)


def dequantize_4bit(
    rows: Tensor, absmax: Tensor, block_size: int, quant_type: str, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """A matrix (N, K) on the CPU in floats, from its codes, two in a byte, and the float32 scales of its blocks."""
    n, k = shape
    if k % 2 or block_size >= _MOST_BLOCK_SIZE:
        codes = torch.stack((rows.flatten() >> 4, rows.flatten() & 15), dim=-1).flatten()[: n * k]
        scales = absmax.flatten().repeat_interleave(block_size)[: n * k]
        return (levels(quant_type)[codes.int()] * scales).view(n, k).to(dtype)
    rows, absmax, weight = rows.contiguous(), absmax.contiguous(), torch.empty(n, k, dtype=dtype)
    function = getattr(cpu_library(), f"cdequantize_blockwise_cpu_{quant_type}_{_NAMES[dtype]}")
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rows, absmax, weight)]
    function(*pointers, *(ctypes.c_longlong(size) for size in (block_size, n, k)))
    return weight


def quantize_8bit(values: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Values (n,) float32 on the CPU to the codes of the nearest of `nested_levels`, uint8, and each block's scale."""
    values = values.contiguous()
    codes, absmax = torch.empty(values.shape, dtype=torch.uint8), torch.empty(-(-len(values) // block_size))
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (nested_levels(), values, absmax, codes)]
    sizes = [ctypes.c_longlong(size) for size in (block_size, len(values))]
    cpu_library().cquantize_blockwise_cpu_fp32(*pointers, *sizes)
    return codes, absmax

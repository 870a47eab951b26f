"""The kernels as functions of tensors. Shapes: N rows (at most MAX_ROWS) of x, all its leading dimensions together."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from ctypes import c_float, c_long, c_void_p

import torch
from torch import Tensor

from mygpt.kernels.cpu.build import library

# Rows of x that linear.c holds sums for. With more, arithmetic is the limit, and torch's products are better at it;
# with fewer already in bfloat16 on a CPU whose matrix unit (AMX) only torch can use: benchmarks/linear.py.
MAX_ROWS = 16
MAX_ROWS_BESIDE_AMX = 4
_MOST_NUMBERS = 1 << 18  # of x: more are no step of a few tokens
_WORK_FOR_MANY = 1 << 16  # numbers

# Numbers as in vectors.h.
TYPES: Mapping[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}
_INT8, _FOURBIT = 2, 3
_BY_UNIT, _BY_VECTORS = 1, 2  # as in tiles.h
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
_NO_GATE = 2


@functools.cache
def max_rows(dtype: torch.dtype) -> int:
    """Rows of x up to which the kernels are the fastest way to multiply weights of a dtype."""
    only_torch_has_amx = torch.cpu._is_amx_tile_supported() and not has_tiles()
    return MAX_ROWS_BESIDE_AMX if dtype is torch.bfloat16 and only_torch_has_amx else MAX_ROWS


class Matrix(ctypes.Structure):
    """`Matrix` of vectors.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("scales", c_void_p),
        ("table", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_long),
        ("outputs", c_long),
        ("type", c_long),
    )


def fits(x: Tensor) -> bool:
    """Whether kernels for few tokens can work on x: see `fits_many`."""
    return fits_many(x) and x.numel() <= _MOST_NUMBERS


def fits_many(x: Tensor) -> bool:
    """Whether kernels can work on x: it is on a CPU that has kernels, and nothing records what is done to it.

    To be asked before anything about x's sizes: each such question is a guard in compiled code.
    """
    return (
        not torch.compiler.is_compiling()
        and x.is_cpu
        and x.dtype in TYPES
        and x.numel() > 0
        and not x.requires_grad
        and library() is not None
    )


def fits_norm(x: Tensor, weight: Tensor) -> bool:
    """Whether `rms_norm` takes x (…, C) and weight (C,)."""
    return fits_many(x) and weight.dtype is x.dtype and not weight.requires_grad


def fits_linear(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` and `gated_linear` take x (…, in) and weight (out, in): at most `max_rows`."""
    return fits(x) and x.numel() <= max_rows(x.dtype) * x.shape[-1] and _is_plain(weight, x.dtype)


def _is_plain(weight: Tensor, dtype: torch.dtype) -> bool:
    return weight.dtype is dtype and weight.is_contiguous() and not weight.requires_grad


def fits_gated(x: Tensor, weight: Tensor, activation: str) -> bool:
    """Whether `gated_linear` takes them."""
    return activation in ACTIVATIONS and fits_linear(x, weight)


def matrix(weight: Tensor, bias: Tensor | None) -> Matrix:
    """What the C side is told of a weight (out, in), float32 or bfloat16, and its bias (out,)."""
    out, inputs = weight.shape
    return Matrix(weight.data_ptr(), 0, 0, _pointer(bias), inputs, out, TYPES[weight.dtype])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, in) times weight (out, in), transposed, plus bias (out,); sums in float32."""
    return multiply(x, matrix(weight, bias))


def int8_matrix(weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Matrix:
    """The same of a weight (out, in) int8 and its rows' scales (out,), which are of x's dtype as the bias is."""
    out, inputs = weight.shape
    return Matrix(weight.data_ptr(), scales.data_ptr(), 0, _pointer(bias), inputs, out, _INT8)


@functools.cache
def has_tiles() -> bool:
    """Whether many rows of bfloat16 are ours to multiply: by the CPU's matrix unit (AMX), else by AVX512-BF16.

    Not where the system keeps the unit from us, nor where only torch can use it, the compiler being too old.
    """
    found = library()
    kind = found.mygpt_has_tiles() if found is not None else 0
    return bool(kind == _BY_UNIT or (kind == _BY_VECTORS and not torch.cpu._is_amx_tile_supported()))


def fits_tiles(x: Tensor, weight: Tensor | None = None) -> bool:
    """Whether `multiply_many` takes x (…, in), and weight (out, in): bfloat16, more rows than other kernels are for."""
    if not (x.dtype is torch.bfloat16 and fits_many(x) and has_tiles()):
        return False
    return x.numel() > MAX_ROWS * x.shape[-1] and (weight is None or _is_plain(weight, x.dtype))


def multiply_many(x: Tensor, matrix: Matrix, activation: str | None = None) -> Tensor:
    """x (…, in) bfloat16 times a matrix of bfloat16, 8 or 4 bits, by the matrix unit; to (…, out).

    With one of ACTIVATIONS the matrix is a gate above what it is for, and y (…, out / 2) that of `gated_linear`.
    """
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], matrix.outputs // (2 if activation else 1)))
    sizes = c_long(x.numel() // matrix.inputs), _NO_GATE if activation is None else ACTIVATIONS[activation]
    pointers = ctypes.byref(matrix), c_void_p(x.data_ptr())
    loaded().mygpt_tiles(torch.get_num_threads(), *pointers, *sizes, c_void_p(y.data_ptr()))
    return y


@functools.cache
def has_fourbit() -> bool:
    """Whether this CPU has what products of `fourbit_matrix` need (AVX512-BF16)."""
    found = library()
    return found is not None and bool(found.mygpt_has_fourbit())


def fourbit_matrix(groups: Tensor, absmax: Tensor, table: Tensor, bias: Tensor | None = None) -> Matrix:
    """The same of weights (out, in) of 4 bits, `out` a multiple of 32 and `in` of 64; x is bfloat16.

    Args:
        groups: (out, in / 2) uint8, in the layout of `mygpt.quantize.matmul.FastFourBitProduct`.
        absmax: (out / 32, in / 64, 32) bfloat16, the factors of 64 numbers each.
        table: (16,) float32, the numbers that the 4 bits stand for, -1 to 1; `multiply` rounds them to bfloat16.
        bias: (out,) bfloat16.
    """
    pointers = groups.data_ptr(), absmax.data_ptr(), table.data_ptr(), _pointer(bias)
    out, half = groups.shape
    return Matrix(*pointers, 2 * half, out, _FOURBIT)


def multiply(x: Tensor, matrix: Matrix) -> Tensor:
    """x (…, in), at most MAX_ROWS, times any matrix; to (…, out)."""
    x = x.contiguous()
    rows = x.numel() // matrix.inputs
    y = x.new_empty((*x.shape[:-1], matrix.outputs))
    pointers = ctypes.byref(matrix), TYPES[x.dtype], c_void_p(x.data_ptr()), c_long(rows), None
    loaded().mygpt_linear(torch.get_num_threads(), *pointers, c_float(1), c_void_p(y.data_ptr()))
    return y


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """activation(x G^T) * (x U^T), (…, width), for weight (2 * width, in): G above U."""
    x = x.contiguous()
    rows = x.numel() // x.shape[-1]
    y = x.new_empty((*x.shape[:-1], len(weight) // 2))
    pointers = ctypes.byref(matrix(weight, bias)), TYPES[x.dtype], c_void_p(x.data_ptr()), c_long(rows)
    loaded().mygpt_gated(torch.get_num_threads(), *pointers, ACTIVATIONS[activation], c_void_p(y.data_ptr()))
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (offset + weight) over the last dimension, all in float32 until the end."""
    x = x.contiguous()
    y = torch.empty_like(x)
    width = x.shape[-1]
    pointers = TYPES[x.dtype], c_void_p(x.data_ptr()), c_void_p(weight.data_ptr())
    sizes = c_long(x.numel() // width), c_long(width), c_float(eps), c_float(offset)
    loaded().mygpt_norm(threads_for(x), *pointers, *sizes, c_void_p(y.data_ptr()))
    return y


def gate(x: Tensor, activation: str) -> Tensor:
    """activation(g) * u, (…, width), of x (…, 2 * width): g, then u."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    y = x.new_empty((*x.shape[:-1], width))
    sizes = c_long(x.numel() // (2 * width)), c_long(width), ACTIVATIONS[activation]
    pointers = TYPES[x.dtype], c_void_p(x.data_ptr()), *sizes, c_void_p(y.data_ptr())
    loaded().mygpt_gate(threads_for(x), *pointers)
    return y


def threads_for(x: Tensor) -> int:
    """One where the work is so little that a team would take longer to meet."""
    return torch.get_num_threads() if x.numel() >= _WORK_FOR_MANY else 1


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def loaded() -> ctypes.CDLL:
    """The library, where `fits` says that there is one."""
    found = library()
    assert found is not None, "ask `fits` first"
    return found

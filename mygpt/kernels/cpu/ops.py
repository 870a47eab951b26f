"""Products, norms and gates by the kernels, as functions of tensors; and what they take.

Shapes: N rows of x, all its leading dimensions together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mygpt.kernels.cpu.library import Library
from mygpt.kernels.cpu.structs import (
    ACTIVATIONS,
    FOURBIT,
    INT8,
    MAX_ROWS,
    NO_GATE,
    TYPES,
    Matrix,
    Norm,
    address,
)

MOST_NUMBERS = 1 << 18  # of x: more are no step of a few tokens
_WORK_FOR_MANY = 1 << 16  # numbers
_FOURBIT_ROWS = 32  # of the weight, which are computed together


def dense_matrix(weight: Tensor, bias: Tensor | None = None) -> Matrix | None:
    """What kernels are told of a weight (out, in) and its bias (out,); None where they do not take it."""
    kind = TYPES.get(weight.dtype)
    if kind is None or not weight.is_contiguous() or weight.requires_grad or not weight.is_cpu:
        return None
    return _matrix(weight, kind, kind, *weight.shape, bias=bias)


def int8_matrix(weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> Matrix | None:
    """The same of a weight (out, in) int8 and its rows' scales (out,), which are of x's dtype as the bias is."""
    xtype = TYPES.get(scales.dtype)
    if xtype is None or not weight.is_cpu:
        return None
    return _matrix(weight, INT8, xtype, *weight.shape, scales=scales, bias=bias)


def fourbit_matrix(
    groups: Tensor, absmax: Tensor, table: Tensor, bias: Tensor | None = None
) -> Matrix | None:
    """The same of weights (out, in) of 4 bits, `out` a multiple of 32 and `in` of 64; x is bfloat16.

    Args:
        groups: (out, in / 2) uint8, in the layout of `mygpt.quantize.matmul.FastFourBitProduct`.
        absmax: (out / 32, in / 64, 32) bfloat16, the factors of 64 numbers each.
        table: (16,) float32, the numbers that the 4 bits stand for, -1 to 1; they are rounded to bfloat16.
        bias: (out,) bfloat16.
    """
    out, half = groups.shape
    if not groups.is_cpu:
        return None
    return _matrix(
        groups, FOURBIT, TYPES[torch.bfloat16], out, 2 * half, scales=absmax, table=table, bias=bias
    )


def _matrix(
    weight: Tensor,
    kind: int,
    xtype: int,
    out: int,
    inputs: int,
    *,
    scales: Tensor | None = None,
    table: Tensor | None = None,
    bias: Tensor | None = None,
) -> Matrix | None:
    if bias is not None and (TYPES.get(bias.dtype) != xtype or bias.requires_grad):
        return None
    tensors = weight, scales, table, bias
    matrix = Matrix(*map(address, tensors), inputs, out, kind, xtype)
    matrix.tensors = tensors
    return matrix


def takes(library: Library, x: Tensor, matrix: Matrix) -> bool:
    """Whether x (…, in), for which the library is ready, and a matrix are what the kernels are the fastest for."""
    kind = matrix.type
    if TYPES[x.dtype] != matrix.xtype or (kind == FOURBIT and not library.has_fourbit):
        return False
    if x.dtype is torch.bfloat16 and library.has_tiles:
        return True
    most = library.max_rows[x.dtype] if kind == matrix.xtype else MAX_ROWS
    return x.numel() <= min(MOST_NUMBERS, most * matrix.inputs)


def halves(matrix: Matrix) -> bool:
    """Whether the matrix can be a gate above what it is for."""
    return matrix.outputs % (2 * _FOURBIT_ROWS if matrix.type == FOURBIT else 2) == 0


def linear(library: Library, x: Tensor, matrix: Matrix, activation: str | None = None) -> Tensor:
    """x (…, in) times a matrix that `takes`, to (…, out).

    With one of ACTIVATIONS the matrix is a gate above what it is for (`halves`), and y (…, out / 2).
    """
    x = x.contiguous()
    width, code = (
        (matrix.outputs, NO_GATE) if activation is None else (matrix.outputs // 2, ACTIVATIONS[activation])
    )
    y = x.new_empty((*x.shape[:-1], width))
    rows = x.numel() // matrix.inputs
    library.c.mygpt_linear(torch.get_num_threads(), matrix, x.data_ptr(), rows, code, y.data_ptr())
    return y


def rms_norm(library: Library, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """x / rms(x) * (offset + weight) over the last dimension, all in float32 until the end."""
    x = x.contiguous()
    y = torch.empty_like(x)
    norm = norm_of(weight, eps, offset)
    library.c.mygpt_norm(threads_for(x), norm, x.data_ptr(), x.numel() // norm.width, y.data_ptr())
    return y


def norm_of(weight: Tensor, eps: float, offset: float) -> Norm:
    """What kernels are told of an RMS norm by a weight (C,)."""
    return Norm(weight.data_ptr(), weight.numel(), TYPES[weight.dtype], eps, offset)


def gate(library: Library, x: Tensor, activation: str) -> Tensor:
    """activation(g) * u, (…, width), of x (…, 2 * width): g, then u."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    y = x.new_empty((*x.shape[:-1], width))
    rows, code = x.numel() // (2 * width), ACTIVATIONS[activation]
    library.c.mygpt_gate(threads_for(x), TYPES[x.dtype], x.data_ptr(), rows, width, code, y.data_ptr())
    return y


def threads_for(x: Tensor) -> int:
    """One where the work is so little that it takes threads longer to meet."""
    return torch.get_num_threads() if x.numel() >= _WORK_FOR_MANY else 1

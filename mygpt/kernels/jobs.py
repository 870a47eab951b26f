"""The jobs that model code asks for: each by a kernel where one fits, else in plain PyTorch."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from mygpt.kernels import plain
from mygpt.kernels.cpu import ops
from mygpt.kernels.cpu.library import ready
from mygpt.kernels.cpu.structs import ACTIVATIONS, Matrix


class Multiplier(Protocol):
    """A matrix (out, in), with or without a bias, however it is stored."""

    def kernel_matrix(self) -> Matrix | None:
        """What kernels are told of it; None where they do not take it."""

    def plain(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out), without kernels of ours."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, in) times weight (out, in), transposed, plus bias (out,); sums in float32."""
    if (library := ready(x)) is not None:
        matrix = ops.dense_matrix(weight, bias)
        if matrix is not None and ops.takes(library, x, matrix):
            return ops.linear(library, x, matrix)
    return plain.linear(x, weight, bias)


def multiply(x: Tensor, multiplier: Multiplier) -> Tensor:
    """x (…, in) times a matrix of any kind, to (…, out)."""
    if (library := ready(x)) is not None:
        matrix = multiplier.kernel_matrix()
        if matrix is not None and ops.takes(library, x, matrix):
            return ops.linear(library, x, matrix)
    return multiplier.plain(x)


def gated_linear(x: Tensor, multiplier: Multiplier, activation: str) -> Tensor:
    """activation(g) * u, (…, out / 2), where a matrix makes g (…, out / 2), then u, of x; `plain.ACTIVATIONS`."""
    if (library := ready(x)) is not None and activation in ACTIVATIONS:
        matrix = multiplier.kernel_matrix()
        if matrix is not None and ops.halves(matrix) and ops.takes(library, x, matrix):
            return ops.linear(library, x, matrix, activation)
    return gate(multiply(x, multiplier), activation)


def gate(x: Tensor, activation: str) -> Tensor:
    """activation(g) * u, (…, width), of x (…, 2 * width): g, then u."""
    if (library := ready(x)) is not None and activation in ACTIVATIONS:
        return ops.gate(library, x, activation)
    return plain.gate(x, activation)


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (offset + weight) over the last dimension; the kernel computes in float32 until the end."""
    library = ready(x)
    if library is not None and weight.dtype is x.dtype and not weight.requires_grad:
        return ops.rms_norm(library, x, weight, eps, offset)
    return plain.rms_norm(x, weight, eps, offset)

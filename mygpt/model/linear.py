"""The matrices of the model: embeddings and projections. Projections of the same input can be fused."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mygpt import kernels

# Up to this many rows a bfloat16 product on the CPU is bound by reading the weights, and oneDNN reads them 1.2 to
# 1.5 times as fast where they stand first (benchmarks/linear.py). In float32 that would be slower.
FEW_ROWS = 16


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, in) times weight (out, in), transposed, plus bias (out,)."""
    if kernels.fits_linear(x, weight):
        return kernels.linear(x, weight, bias)
    if kernels.fits_tiles(x, weight):
        return kernels.multiply_many(x, kernels.matrix(weight, bias))
    rows = x.numel() // x.shape[-1]
    if x.dtype is not torch.bfloat16 or x.device.type != "cpu" or rows > FEW_ROWS:
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, -1)
    y = torch.mv(weight, flat[0]) if rows == 1 else torch.mm(weight, flat.t()).t()
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], -1)


class Embedding(nn.Embedding):
    """`nn.Embedding` that is filled from a file alone."""

    def reset_parameters(self) -> None:
        """Nothing: random numbers on the meta device would make torch import its compiler, for over a second."""


class Linear(nn.Linear):
    """`nn.Linear` by the faster kernel for few rows, filled from a file alone."""

    def reset_parameters(self) -> None:
        """Nothing: see `Embedding`."""

    @property
    def device(self) -> torch.device:
        """Where the matrix is."""
        return self.weight.device

    def kernel_matrix(self, x: Tensor) -> kernels.Matrix | None:
        """What kernels are told of the matrix and the bias; None where they do not take it with such an x."""
        return kernels.matrix(self.weight, self.bias) if kernels.fits_linear(x, self.weight) else None

    def tile_matrix(self, x: Tensor) -> kernels.Matrix | None:
        """The same of `kernels.multiply_many`, which is for many rows."""
        return kernels.matrix(self.weight, self.bias) if kernels.fits_tiles(x, self.weight) else None

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out)."""
        return linear(x, self.weight, self.bias)


class FusedLinear(Linear):
    """Projections of the same input, stacked by rows: one product in place of several.

    `parts` are their names and rows, in order; the loader fills each by itself, so a shard of a part is right
    whatever is fused with it.
    """

    def __init__(self, in_features: int, parts: Mapping[str, int], bias: bool) -> None:
        super().__init__(in_features, sum(parts.values()), bias)
        self.parts = dict(parts)

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """The parts, (…, rows of the part) each, of the layer's output."""
        return torch.split(y, list(self.parts.values()), dim=-1)

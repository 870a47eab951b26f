"""The matrices of the model: embeddings and projections. Projections of the same input can be fused."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mygpt import kernels


class Embedding(nn.Embedding):
    """`nn.Embedding` that is filled from a file alone."""

    def reset_parameters(self) -> None:
        """Nothing: random numbers on the meta device would make torch import its compiler, for over a second."""


class Linear(nn.Linear):
    """`nn.Linear` by a kernel where there is one, filled from a file alone.

    A subclass that multiplies otherwise overrides `forward`, `kernel_matrix` and `plain` (`kernels.jobs.Multiplier`).
    """

    def reset_parameters(self) -> None:
        """Nothing: see `Embedding`."""

    @property
    def device(self) -> torch.device:
        """Where the matrix is."""
        return self.weight.device

    def kernel_matrix(self) -> kernels.Matrix | None:
        """What kernels are told of the matrix and the bias; None where they do not take it."""
        return kernels.dense_matrix(self.weight, self.bias)

    def plain(self, x: Tensor) -> Tensor:
        """`forward` in plain PyTorch."""
        return kernels.plain.linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out)."""
        return kernels.multiply(x, self)


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

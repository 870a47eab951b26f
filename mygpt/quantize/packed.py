"""What every packed matrix can do, whatever its scheme. Shapes: N rows (outputs), K columns (inputs)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

RowSplit: TypeAlias = Callable[[Tensor], Sequence[Tensor]]  # rows (N, …) to groups of rows


class PackedMatrix(Protocol):
    """A matrix (N, K) in fewer bits than floats take, never changed once it is made."""

    @property
    def shape(self) -> torch.Size:
        """(N, K)."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> PackedMatrix:
        """The same on a device; `dtype` is that of weights which are not packed, and means nothing here."""

    def split_rows(self, split: RowSplit) -> Sequence[PackedMatrix]:
        """Groups of rows, by any function that picks rows of a tensor.

        Raises:
            InputError: rows cannot be parted.
        """

    def narrow(self, dim: int, start: int, length: int) -> PackedMatrix:
        """A shard, as `Tensor.narrow`: of rows (dim 0) or of columns (dim 1).

        Raises:
            InputError: the shard would begin or end within a block.
        """

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix (N, K) in floats."""

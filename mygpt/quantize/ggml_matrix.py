"""Matrices in GGML's blocks, as GGUF files have them: see `mygpt.quantize.packed` for what they can do.

A row is cut into blocks of 32 or 256 weights, each with scales of its own. Source of the layouts:
https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/quants.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mygpt.errors import InputError
from mygpt.quantize.packed import RowSplit

# Weights of a block, and its bytes, of the types that stay packed.
BLOCKS = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "MXFP4": (32, 17),
}
_CHUNK = 1 << 17  # weights dequantized at a time: fast in cache, measured from 2^14 to 2^20


@dataclass(frozen=True)
class GGMLMatrix:
    """(N, K) in blocks of one of GGML's types.

    Kernels read its bytes by their address, so an instance has the right size.

    Raises:
        InputError: it has not.
    """

    shape: torch.Size
    ggml_type: str  # a key of BLOCKS
    rows: Tensor  # (N, bytes of a row) uint8

    def __post_init__(self) -> None:
        n, k = self.shape
        if k % BLOCKS[self.ggml_type][0]:
            raise InputError(f"a matrix of {k} columns cannot be in {self.ggml_type}")
        expected = (n, row_bytes(self.ggml_type, k))
        if tuple(self.rows.shape) != expected or self.rows.dtype is not torch.uint8:
            raise InputError(
                f"{self.ggml_type} blocks {tuple(self.rows.shape)} {self.rows.dtype} in place of {expected} uint8"
            )

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.rows.device

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.rows.nbytes

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> GGMLMatrix:
        """The same on a device; `dtype` is that of weights which are not packed, and means nothing here."""
        return GGMLMatrix(self.shape, self.ggml_type, self.rows.to(device))

    def split_rows(self, split: RowSplit) -> list[GGMLMatrix]:
        """Groups of rows, by any function that picks rows."""
        return [self._of(rows) for rows in split(self.rows)]

    def narrow(self, dim: int, start: int, length: int) -> GGMLMatrix:
        """A shard, as `Tensor.narrow`: of rows (dim 0), or of columns (dim 1) if it is made of whole blocks.

        Raises:
            InputError: the shard would begin or end within a block.
        """
        if dim == 0:
            return self._of(self.rows.narrow(0, start, length))
        weights, nbytes = BLOCKS[self.ggml_type]
        if start % weights or length % weights:
            raise InputError(
                f"weights in {self.ggml_type} come in blocks of {weights} columns, so {self.shape[1]} of them cannot "
                f"be shared out by {length}; use fewer devices, or --strategy sequential"
            )
        rows = self.rows.narrow(1, start // weights * nbytes, length // weights * nbytes).contiguous()
        return GGMLMatrix(torch.Size((len(rows), length)), self.ggml_type, rows)

    def _of(self, rows: Tensor) -> GGMLMatrix:
        return GGMLMatrix(torch.Size((len(rows), self.shape[1])), self.ggml_type, rows)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix (N, K): the values of gguf's `dequantize`, which are float32, in `dtype`."""
        return dequantize(self.rows, self.ggml_type, self.shape[1], dtype)


def row_bytes(ggml_type: str, columns: int) -> int:
    """Bytes of a row of so many weights."""
    weights, nbytes = BLOCKS[ggml_type]
    return columns // weights * nbytes


def dequantize(rows: Tensor, ggml_type: str, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes (N, bytes of a row) of any type that gguf knows to floats (N, columns).

    Chunk by chunk, so that numpy's intermediates stay in cache. (Two threads were no faster.)
    """
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as dequantize_blocks

    out = torch.empty(len(rows), columns, dtype=dtype)
    kind, step = GGMLQuantizationType[ggml_type], max(1, _CHUNK // columns)
    blocks = rows.numpy()
    for start in range(0, len(rows), step):
        with np.errstate(all="ignore"):  # of a corrupt block's infinities; the logits tell
            chunk = dequantize_blocks(np.ascontiguousarray(blocks[start : start + step]), kind)
        out[start : start + step] = torch.from_numpy(chunk)
    return out


def concatenated(parts: Sequence[GGMLMatrix]) -> GGMLMatrix:
    """Matrices of one type and width, stacked by rows (a copy)."""
    first = parts[0]
    rows = torch.cat([part.rows for part in parts])
    return GGMLMatrix(torch.Size((len(rows), first.shape[1])), first.ggml_type, rows)

"""Matrices as bitsandbytes makes them, packed: see `mygpt.quantize.packed` for what they can do.

Shapes: N rows (outputs), K columns (inputs). A block is `block_size` weights of the matrix read row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from mygpt.errors import InputError
from mygpt.quantize.bnb_library import (
    QUANT_TYPES,
    bitsandbytes,
    dequantize_4bit,
    levels,
    nested_levels,
    quantize_8bit,
)
from mygpt.quantize.packed import RowSplit

BLOCK_SIZE = 64
BLOCK_SIZES = tuple(2**power for power in range(5, 13))  # that bitsandbytes has kernels for: 32 to 4096
NESTED_BLOCK_SIZE = 256
# Weights quantized at a time on the CPU, so that what they become on the way stays in its caches.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Nested:
    """The scale of each 256 block scales, the 256 levels these may have, and what is added to them."""

    absmax: Tensor  # (ceil(blocks / 256),) float32
    levels: Tensor  # (256,) float32
    offset: Tensor  # () float32

    def __post_init__(self) -> None:
        _check("levels of nested scales", self.levels, (256,), torch.float32)
        _check("nested offset", self.offset, (), torch.float32)

    @property
    def nbytes(self) -> int:
        """Without the levels, which are the same for all matrices."""
        return self.absmax.nbytes + self.offset.nbytes

    def to(self, device: torch.device) -> Nested:
        """The same on a device."""
        return Nested(self.absmax.to(device), self.levels.to(device), self.offset.to(device))


@dataclass(frozen=True)
class FourBit:
    """(N, K) in 4 bits: the first of two weights is in the upper half of a byte.

    Kernels read its parts by their addresses, so an instance has the right sizes and types.

    Raises:
        InputError: it has not.
    """

    shape: torch.Size
    quant_type: str  # nf4 or fp4
    rows: Tensor  # uint8: (N, K / 2), or flat where a row does not fill its last byte
    absmax: Tensor  # of each block: (N, K / block_size), or flat where a block holds weights of two rows
    nested: Nested | None = None
    block_size: int = BLOCK_SIZE

    def __post_init__(self) -> None:
        if self.quant_type not in QUANT_TYPES:
            raise InputError(f"the 4-bit type {self.quant_type!r} is not known")
        n, k = self.shape
        blocks = -(-n * k // self.block_size)
        rows = (n, k // 2) if k % 2 == 0 else (-(-n * k // 2),)
        scales = (n, k // self.block_size) if self.whole_rows else (blocks,)
        _check("codes", self.rows, rows, torch.uint8)
        _check("scales", self.absmax, scales, torch.uint8 if self.nested else torch.float32)
        if self.nested:
            nested_blocks = -(-blocks // NESTED_BLOCK_SIZE)
            _check("nested scales", self.nested.absmax, (nested_blocks,), torch.float32)

    @property
    def whole_rows(self) -> bool:
        """Whether no block holds weights of two rows, so that rows can be parted."""
        return self.shape[1] % self.block_size == 0

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.rows.device

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.rows.nbytes + self.absmax.nbytes + (self.nested.nbytes if self.nested else 0)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> FourBit:
        """The same on a device; `dtype` is that of weights which are not quantized, and means nothing here."""
        return replace(
            self,
            rows=self.rows.to(device),
            absmax=self.absmax.to(device),
            nested=self.nested.to(device) if self.nested else None,
        )

    def flat(self) -> FourBit:
        """The same with the blocks' scales in float32."""
        if self.nested is None:
            return self
        nested, codes = self.nested, self.absmax.flatten()
        scales = nested.absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: len(codes)]
        absmax = (nested.levels[codes.int()] * scales + nested.offset).view(self.absmax.shape)
        return replace(self, absmax=absmax, nested=None)

    def split_rows(self, split: RowSplit) -> list[FourBit]:
        """Groups of rows, by any function that picks rows."""
        if not self.whole_rows:
            raise InputError(
                f"a stored 4-bit matrix of {self.shape[1]} columns cannot be parted: its blocks of "
                f"{self.block_size} run over the rows; use an unquantized model with --quantize"
            )
        flat = self.flat()
        return [
            replace(flat, shape=torch.Size((len(rows), self.shape[1])), rows=rows, absmax=absmax)
            for rows, absmax in zip(split(flat.rows), split(flat.absmax), strict=True)
        ]

    def narrow(self, dim: int, start: int, length: int) -> FourBit:
        """A shard, as `Tensor.narrow`: of rows (dim 0), or of columns (dim 1) if it is made of whole blocks.

        Raises:
            InputError: the shard would begin or end within a block.
        """
        if dim == 0:
            return self.split_rows(lambda part: [part.narrow(0, start, length)])[0]
        if start % self.block_size or length % self.block_size or not self.whole_rows:
            raise InputError(
                f"stored 4-bit weights come in blocks of {self.block_size} columns, so {self.shape[1]} of them "
                f"cannot be shared out by {length}; use fewer devices, or an unquantized model with --quantize"
            )
        flat, size = self.flat(), self.block_size
        return replace(
            flat,
            shape=torch.Size((self.shape[0], length)),
            rows=flat.rows.narrow(1, start // 2, length // 2).contiguous(),
            absmax=flat.absmax.narrow(1, start // size, length // size).contiguous(),
        )

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix (N, K) in floats."""
        if not self.rows.is_cuda:
            absmax = self.flat().absmax
            return dequantize_4bit(self.rows, absmax, self.block_size, self.quant_type, self.shape, dtype)
        bitsandbytes()
        weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.rows.reshape(-1, 1),
            self.flat().absmax.flatten(),
            self.block_size,
            self.quant_type,
            self.shape,
            dtype,
        )
        return weight


@dataclass(frozen=True)
class EightBit:
    """(N, K) in 8 bits: weights are rows * absmax / 127. It is checked as `FourBit` is."""

    rows: Tensor  # (N, K) int8
    absmax: Tensor  # (N,) float32, the largest magnitude of each row

    def __post_init__(self) -> None:
        if self.rows.ndim != 2:
            raise InputError(f"no 8-bit matrix is {tuple(self.rows.shape)}")
        _check("codes", self.rows, self.rows.shape, torch.int8)
        _check("scales", self.absmax, self.rows.shape[:1], torch.float32)

    @property
    def shape(self) -> torch.Size:
        """(N, K)."""
        return self.rows.shape

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.rows.device

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.rows.nbytes + self.absmax.nbytes

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> EightBit:
        """The same on a device; `dtype` is that of weights which are not quantized, and means nothing here."""
        return EightBit(self.rows.to(device), self.absmax.to(device))

    def split_rows(self, split: RowSplit) -> list[EightBit]:
        """Groups of rows, by any function that picks rows."""
        pairs = zip(split(self.rows), split(self.absmax[:, None]), strict=True)
        return [EightBit(rows, absmax.flatten()) for rows, absmax in pairs]

    def narrow(self, dim: int, start: int, length: int) -> EightBit:
        """A shard, as `Tensor.narrow`: of rows (dim 0) or of columns (dim 1)."""
        rows = self.rows.narrow(dim, start, length).contiguous()
        return EightBit(rows, self.absmax if dim else self.absmax.narrow(0, start, length))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix (N, K) in floats."""
        return (self.rows * (self.absmax[:, None] / 127)).to(dtype)


def _check(what: str, part: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    if tuple(part.shape) != tuple(shape) or part.dtype != dtype:
        raise InputError(f"{what} {tuple(part.shape)} {part.dtype} in place of {tuple(shape)} {dtype}")


BnbMatrix: TypeAlias = FourBit | EightBit


def quantize(weight: Tensor, quant_type: str, *, nested: bool = False) -> BnbMatrix:
    """A matrix (N, K) of floats, quantized bit for bit as by `quantize_4bit` or `int8_vectorwise_quant`.

    `quant_type` is nf4, fp4 or int8; with `nested`, the scales of 4-bit blocks are in 8 bits.
    """
    if quant_type == "int8":
        return _quantize_rows(weight.half())
    rows, absmax = _quantize_blocks(weight.contiguous().flatten(), quant_type)
    scales = None
    if nested:
        offset = absmax.mean()
        absmax, nested_absmax = _quantize_scales(absmax - offset)
        scales = Nested(nested_absmax, nested_levels().to(weight.device), offset)
    return four_bit(weight.shape, quant_type, rows, absmax, scales)


def four_bit(
    shape: torch.Size,
    quant_type: str,
    rows: Tensor,
    absmax: Tensor,
    nested: Nested | None,
    block_size: int = BLOCK_SIZE,
) -> FourBit:
    """A matrix of flat parts, which it takes in rows where they are whole."""
    n, k = shape
    rows = rows.reshape(n, k // 2) if k % 2 == 0 else rows.flatten()
    absmax = absmax.reshape(n, k // block_size) if k % block_size == 0 else absmax.flatten()
    return FourBit(shape, quant_type, rows, absmax, nested, block_size)


def _quantize_rows(weight: Tensor) -> EightBit:
    """What bitsandbytes' `int8_vectorwise_quant` makes of a float16 matrix."""
    if weight.is_cuda:
        rows, absmax, _ = bitsandbytes().functional.int8_vectorwise_quant(weight)
        return EightBit(rows, absmax)
    absmax = weight.abs().amax(dim=1).float()
    return EightBit(torch.round(weight * (127.0 / absmax[:, None])).to(torch.int8), absmax)


def _quantize_scales(absmax: Tensor) -> tuple[Tensor, Tensor]:
    """What bitsandbytes' `quantize_blockwise` makes of the scales of 4-bit blocks."""
    if absmax.is_cuda:
        codes, state = bitsandbytes().functional.quantize_blockwise(absmax, blocksize=NESTED_BLOCK_SIZE)
        return codes, state.absmax
    return quantize_8bit(absmax, NESTED_BLOCK_SIZE)


def _quantize_blocks(weights: Tensor, quant_type: str) -> tuple[Tensor, Tensor]:
    """What bitsandbytes' `quantize_4bit` makes of flat weights; on a CPU in half the time."""
    if weights.is_cuda:
        bitsandbytes()
        operator = torch.ops.bitsandbytes.quantize_4bit.default
        rows, absmax = operator(weights, BLOCK_SIZE, quant_type, torch.uint8)
        return rows, absmax
    size = weights.numel()
    whole = size - size % BLOCK_SIZE
    rows = torch.empty(-(-size // 2), dtype=torch.uint8)
    absmax = torch.empty(-(-size // BLOCK_SIZE))
    for start in range(0, whole, _CHUNK):
        chunk = weights[start : min(start + _CHUNK, whole)].float().view(-1, BLOCK_SIZE)
        largest = absmax[start // BLOCK_SIZE :][: len(chunk)]
        torch.amax(chunk.abs(), dim=-1, out=largest)
        scaled = chunk * (1.0 / largest.clamp(min=1e-38))[:, None]
        _encode(scaled, quant_type, rows[start // 2 :][: scaled.numel() // 2])
    if whole < size:  # a last block of fewer weights
        rest = weights[whole:].float()
        absmax[-1] = rest.abs().max().clamp(min=1e-38)
        _encode(F.pad(rest / absmax[-1], (0, size % 2)), quant_type, rows[whole // 2 :])
    return rows, absmax


def _encode(scaled: Tensor, quant_type: str, out: Tensor) -> None:
    """Numbers from -1 to 1 to bytes of two codes each."""
    codes = _nearest(scaled, levels(quant_type)).flatten()
    torch.bitwise_or(codes[::2] << 4, codes[1::2], out=out)


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """The number of the nearest level, uint8: so many comparisons take half the time of torch's `bucketize`."""
    ordered, order = levels.sort()
    codes = torch.zeros(values.shape, dtype=torch.uint8)
    above = torch.empty(values.shape, dtype=torch.bool)
    for middle in ((ordered[:-1] + ordered[1:]) / 2).tolist():
        codes += torch.gt(values, middle, out=above).view(torch.uint8)
    if torch.equal(order, torch.arange(len(levels))):
        return codes
    return order.to(torch.uint8)[codes.int()]

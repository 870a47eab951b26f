"""Products with quantized matrices, by the fastest public kernel of each device.

Shapes: N rows (outputs), K columns (inputs).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mygpt import kernels
from mygpt.quantize.bnb_library import (
    bitsandbytes,
    cpu_library,
    dequantize_4bit,
    has_fast_cpu_kernel,
    levels,
)
from mygpt.quantize.bnb_matrices import BLOCK_SIZE, BnbMatrix, EightBit, FourBit
from mygpt.quantize.packed import PackedMatrix

# From this many rows of x on, it is faster to dequantize the matrix and to multiply in floats (benchmarks/quantize.py).
MANY_ROWS = 64
_ROW_GROUP = 32  # of the weight, which the CPU's kernel computes together
_ALIGNMENT = 16  # bytes: torch's int8 kernel for bfloat16 crashes on rows that begin elsewhere (torch 2.13)
_OUTLIER = 6.0  # of LLM.int8(): columns of x beyond it are multiplied in 16 bits (arXiv:2208.07339)


class Product(nn.Module):
    """A matrix that x (…, K) can be multiplied with."""

    nbytes: int

    @property
    def device(self) -> torch.device:
        """Where the matrix is."""
        return next(self.buffers()).device

    def multiply(self, x: Tensor) -> Tensor:
        """x (…, K) to (…, N), by a kernel of ours where there is one."""
        return kernels.multiply(x, self)

    def kernel_matrix(self, bias: Tensor | None = None) -> kernels.Matrix | None:
        """What `mygpt.kernels` are told of the matrix; None where they do not take it."""
        return None

    def plain(self, x: Tensor) -> Tensor:
        """`multiply` without kernels of ours."""
        raise NotImplementedError


class PlainProduct(Product):
    """A matrix that is not quantized, beside ones that are."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.weight: Tensor
        self.nbytes = weight.nbytes

    def kernel_matrix(self, bias: Tensor | None = None) -> kernels.Matrix | None:
        """Of the same dtype as x."""
        return kernels.dense_matrix(self.weight, bias)

    def plain(self, x: Tensor) -> Tensor:
        """x (…, K) to (…, N)."""
        return kernels.plain.linear(x, self.weight)


class DequantizedProduct(Product):
    """A packed matrix of any scheme, dequantized each time: for those that have no kernel."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.nbytes = matrix.nbytes

    @property
    def device(self) -> torch.device:
        """Where the matrix is."""
        return self.matrix.device

    def plain(self, x: Tensor) -> Tensor:
        """x (…, K) to (…, N)."""
        return kernels.linear(x, self.matrix.dequantize(x.dtype))


def plain_product(part: Tensor | PackedMatrix) -> Product:
    """Without a kernel for packed matrices."""
    return PlainProduct(part) if isinstance(part, Tensor) else DequantizedProduct(part)


class FourBitProduct(Product):
    """4 bits: by bitsandbytes' kernel on CUDA; on a CPU the matrix is dequantized each time."""

    def __init__(self, matrix: FourBit) -> None:
        super().__init__()
        self.shape, self.quant_type, self.block_size = matrix.shape, matrix.quant_type, matrix.block_size
        self.nbytes = matrix.nbytes
        self._takes_library = matrix.shape[1] % 2 == 0 and matrix.block_size < 2048
        self.register_buffer("rows", matrix.rows.reshape(-1, 1))
        self.register_buffer("absmax", matrix.absmax.flatten())
        nested = matrix.nested
        self.register_buffer("nested_absmax", nested.absmax if nested else None)
        self.register_buffer("levels", nested.levels if nested else None, persistent=False)
        self.register_buffer("offset", nested.offset if nested else None)
        self.rows: Tensor
        self.absmax: Tensor
        self.nested_absmax: Tensor | None
        self.levels: Tensor | None
        self.offset: Tensor | None
        if self.rows.is_cuda:
            bitsandbytes()

    def plain(self, x: Tensor) -> Tensor:
        """x (…, K) to (…, N)."""
        if not x.is_cuda and not torch.compiler.is_compiling():
            return F.linear(x, self._dequantized(x.dtype))
        scales = {}
        if self.nested_absmax is not None:
            scales = {"absmax_8bit": self.absmax, "absmax_code": self.levels, "absmax_offset": self.offset}
        absmax = self.absmax if self.nested_absmax is None else self.nested_absmax
        y: Tensor = torch.ops.bitsandbytes.gemm_4bit.default(
            x, self.rows, self.shape, absmax, self.block_size, self.quant_type, **scales
        )
        return y

    def _dequantized(self, dtype: torch.dtype) -> Tensor:
        """The matrix (N, K); on a CPU, where scales are not nested."""
        return dequantize_4bit(self.rows, self.absmax, self.block_size, self.quant_type, self.shape, dtype)


class FastFourBitProduct(Product):
    """4 bits, by bitsandbytes' kernel for CPUs with AVX512-BF16: in bfloat16, whatever x is.

    Its layout: groups of 32 rows; of each pair of columns in turn, the weights of the group's rows 0 to 15 in the
    lower halves of 32 bytes, those of rows 16 to 31 in the upper ones (bitsandbytes
    `functional._convert_weight_packed_for_cpu`). Scales in bfloat16: a group's together, 32 for each block of columns.
    """

    def __init__(self, matrix: FourBit) -> None:
        super().__init__()
        self.shape, self.quant_type = matrix.shape, matrix.quant_type
        self.register_buffer("rows", to_row_groups(matrix.rows))
        blocks = matrix.flat().absmax.view(-1, _ROW_GROUP, self.shape[1] // BLOCK_SIZE)
        self.register_buffer("absmax", blocks.transpose(1, 2).bfloat16().contiguous())
        self.rows: Tensor
        self.absmax: Tensor
        self.nbytes = self.rows.nbytes + self.absmax.nbytes
        self.levels = levels(matrix.quant_type)

    @staticmethod
    def suits(matrix: FourBit) -> bool:
        """Whether the kernel takes a matrix of this shape, and this machine has the kernel."""
        return matrix.block_size == BLOCK_SIZE and suits_fast_kernel(*matrix.shape)

    def kernel_matrix(self, bias: Tensor | None = None) -> kernels.Matrix | None:
        """For x in bfloat16: with few rows twice as fast as bitsandbytes' kernel."""
        return kernels.fourbit_matrix(self.rows, self.absmax, self.levels, bias)

    def plain(self, x: Tensor) -> Tensor:
        """x (…, K) to (…, N)."""
        n, k = self.shape
        flat = x.reshape(-1, k).bfloat16()
        if torch.compiler.is_compiling():
            y: Tensor = torch.ops.bitsandbytes.gemv_4bit.default(
                flat, self.rows, self.shape, self._absmax_by_columns(), self.levels, BLOCK_SIZE
            )
        elif len(flat) < MANY_ROWS:  # of float32 this loses less than ours, which rounds the weights
            y = self.by_bitsandbytes(flat)
        elif x.dtype is not flat.dtype:
            y = self.multiply(flat)
        else:
            y = F.linear(flat, self.dequantized())
        return y.view(*x.shape[:-1], n).to(x.dtype)

    def by_bitsandbytes(self, x: Tensor) -> Tensor:
        """x (rows, K) bfloat16 to (rows, N), by its kernel: called as its operator does, which checks for 20 us."""
        n, k = self.shape
        x, absmax = x.contiguous(), self._absmax_by_columns()
        y = x.new_empty(len(x), n)
        sizes = [ctypes.c_int64(size) for size in (len(x), n, k)]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, self.rows, absmax, y)]
        kernel = getattr(cpu_library(), f"gemv_4bit_inference_cpu_{self.quant_type}_bf16")
        kernel(*sizes, *pointers, *(ctypes.c_int64(size) for size in (BLOCK_SIZE, k, n)))
        return y

    def _absmax_by_columns(self) -> Tensor:
        """(K / 64, N), as bitsandbytes' kernel takes them; ours reads a group's scales from one place."""
        return self.absmax.transpose(0, 1).reshape(-1, self.shape[0])

    def dequantized(self) -> Tensor:
        """The matrix (N, K) in bfloat16."""
        rows, absmax = from_row_groups(self.rows), self._absmax_by_columns().t().float().contiguous()
        return dequantize_4bit(rows, absmax, BLOCK_SIZE, self.quant_type, self.shape, torch.bfloat16)


def suits_fast_kernel(n: int, k: int) -> bool:
    """Whether the kernel of CPUs takes 4-bit matrices (n, k) that bitsandbytes makes."""
    return n % _ROW_GROUP == 0 and k % BLOCK_SIZE == 0 and has_fast_cpu_kernel()


def to_row_groups(rows: Tensor) -> Tensor:
    """(N, K / 2) uint8, N a multiple of 32, to the layout of `FastFourBitProduct`, of the same shape."""
    n, half = rows.shape
    lower, upper = rows.view(-1, 2, _ROW_GROUP // 2, half).unbind(1)
    groups = rows.new_empty(n // _ROW_GROUP, half, _ROW_GROUP // 2, 2)
    even, odd = groups.permute(0, 2, 1, 3).unbind(-1)  # columns
    even.copy_((lower >> 4) | (upper & 0xF0))
    odd.copy_((lower & 0xF) | (upper << 4))
    return groups.view(n, half)


def from_row_groups(groups: Tensor) -> Tensor:
    """The inverse of `to_row_groups`."""
    n, half = groups.shape
    even, odd = groups.view(-1, half, _ROW_GROUP // 2, 2).permute(3, 0, 2, 1).contiguous()
    rows = torch.stack(((even << 4) | (odd & 0xF), (even & 0xF0) | (odd >> 4)), dim=1)
    return rows.view(n, half)


class EightBitProduct(Product):
    """8 bits. On CUDA LLM.int8(): x is quantized too, but for its outliers. On a CPU x stays as it is.

    bitsandbytes' own product is far slower on a CPU; torch's takes the same weights.
    """

    def __init__(self, matrix: EightBit, dtype: torch.dtype) -> None:
        super().__init__()
        aligned = matrix.rows.data_ptr() % _ALIGNMENT == 0  # or in the middle of a mapped file
        self.register_buffer("rows", matrix.rows if aligned else matrix.rows.clone())
        self.rows: Tensor
        on_cuda = matrix.rows.is_cuda
        self.register_buffer("absmax", matrix.absmax if on_cuda else (matrix.absmax / 127).to(dtype))
        self.absmax: Tensor
        self.nbytes = self.rows.nbytes + self.absmax.nbytes

    def kernel_matrix(self, bias: Tensor | None = None) -> kernels.Matrix | None:
        """For x of the dtype that the layer was made for."""
        return kernels.int8_matrix(self.rows, self.absmax, bias)

    def plain(self, x: Tensor) -> Tensor:
        """x (…, K) to (…, N)."""
        if x.is_cuda:
            return self._llm_int8(x)
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) < MANY_ROWS and flat.shape[1] % _ALIGNMENT == 0:
            y = torch._weight_int8pack_mm(flat, self.rows, self.absmax)
        else:
            y = F.linear(flat, self.rows.to(x.dtype)) * self.absmax
        return y.view(*x.shape[:-1], -1)

    def _llm_int8(self, x: Tensor) -> Tensor:
        library = bitsandbytes()
        state = library.MatmulLtState()
        state.CB, state.SCB, state.has_fp16_weights, state.is_training = self.rows, self.absmax, False, False
        y: Tensor = library.matmul(x, self.rows, state=state, threshold=_OUTLIER)
        return y


def make_products(parts: Sequence[Tensor | BnbMatrix], dtype: torch.dtype) -> list[Product]:
    """The parts of a fused layer, stacked by rows where one product can take them together.

    Parts whose scales are nested have statistics of their own: the kernels for GPUs take them one by one, that
    for CPUs takes none nested.
    """
    parts = [part.flat() if isinstance(part, FourBit) and not part.rows.is_cuda else part for part in parts]
    if all(isinstance(part, EightBit) for part in parts):
        return [EightBitProduct(_stack_8(parts), dtype)]  # type: ignore[arg-type]
    if all(isinstance(part, FourBit) and part.whole_rows and part.nested is None for part in parts):
        parts = _stack_4(parts)  # type: ignore[arg-type]
    return [_product(part, dtype) for part in parts]


def _product(part: Tensor | BnbMatrix, dtype: torch.dtype) -> Product:
    if isinstance(part, Tensor):
        return PlainProduct(part)
    if isinstance(part, EightBit):
        return EightBitProduct(part, dtype)
    fast = not part.rows.is_cuda and FastFourBitProduct.suits(part)
    return FastFourBitProduct(part) if fast else FourBitProduct(part)


def _stack_8(parts: Sequence[EightBit]) -> EightBit:
    if len(parts) == 1:
        return parts[0]
    return EightBit(torch.cat([part.rows for part in parts]), torch.cat([part.absmax for part in parts]))


def _stack_4(parts: Sequence[FourBit]) -> list[FourBit]:
    first = parts[0]
    if len(parts) == 1 or len({(part.quant_type, part.block_size) for part in parts}) > 1:
        return list(parts)
    rows, absmax = torch.cat([part.rows for part in parts]), torch.cat([part.absmax for part in parts])
    shape = torch.Size((len(rows), first.shape[1]))
    return [FourBit(shape, first.quant_type, rows, absmax, None, first.block_size)]

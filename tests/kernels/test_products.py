"""Products by the kernels equal plain PyTorch, whatever shapes, types, strides and threads."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mygpt.kernels import jobs, plain
from mygpt.kernels.cpu import ops
from mygpt.kernels.cpu.library import Library, ready
from mygpt.model.linear import Linear
from mygpt.quantize.formats.bnb import MODES
from mygpt.quantize.matmul import EightBitProduct, FastFourBitProduct, to_row_groups
from tests.kernels.conftest import check

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(960, 576), (37, 100), (2, 16), (6, 7), (130, 2048)]  # (out, in)
WIDE = [
    (37, 100),
    (128, 64),
    (96, 1600),
    (64, 2112),
    (40, 8200),
    (74, 96),
]  # the tiles' columns come in turns


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_few_rows(kernels: Library, shape: tuple[int, int], dtype: torch.dtype, threads: int) -> None:
    weight, bias = torch.randn(shape).to(dtype), torch.randn(shape[0]).to(dtype)
    alone, both = ops.dense_matrix(weight), ops.dense_matrix(weight, bias)
    assert alone is not None
    assert both is not None
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 11, 16):
        x = torch.randn(2 * rows, shape[1]).to(dtype)[::2]  # not contiguous
        assert ops.takes(kernels, x, both)
        reference = F.linear(x.double(), weight.double(), bias.double())
        check(ops.linear(kernels, x, both), reference)
        check(plain.linear(x, weight, bias), reference)
        check(ops.linear(kernels, x.view(rows, 1, -1), alone), (x.double() @ weight.double().t())[:, None])
        if shape[0] % 2 == 0:
            check(ops.linear(kernels, x, both, "silu"), plain.gate(reference, "silu"))
            check(ops.linear(kernels, x, both, "gelu_tanh"), plain.gate(reference, "gelu_tanh"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_few_rows_of_8_bits(kernels: Library, rows: int, dtype: torch.dtype, threads: int) -> None:
    for out, width in SHAPES:
        x, bias = torch.randn(rows, width).to(dtype), torch.randn(out).to(dtype)
        weight, scales = torch.randint(-127, 128, (out, width), dtype=torch.int8), torch.rand(out).to(dtype)
        reference = F.linear(x.double(), weight * scales[:, None].double(), bias.double())
        check(ops.linear(kernels, x, ops.int8_matrix(weight, scales, bias)), reference)


def test_8_bits_lose_nothing_beside_outliers(kernels: Library) -> None:
    """Nothing but the last rounding; and what is not finite is not lost."""
    x, weight = torch.randn(2, 2000).bfloat16(), torch.randint(-127, 128, (64, 2000), dtype=torch.int8)
    x[:, 7], scales = 1000, torch.ones(64).bfloat16()
    matrix = ops.int8_matrix(weight, scales)
    reference = x.double() @ weight.double().t()
    torch.testing.assert_close(ops.linear(kernels, x, matrix).double(), reference, rtol=2**-8, atol=0.5)
    assert torch.equal(ops.linear(kernels, x * 0, matrix), torch.zeros(2, 64).bfloat16())
    for odd in (torch.nan, torch.inf):
        x[0, 5] = odd
        y = ops.linear(kernels, x, matrix)
        assert not y[0].isfinite().any()
        assert y[1].isfinite().all()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_few_rows_of_4_bits_as_bitsandbytes_has_them(fourbit: Library, kind: str, threads: int) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    for out, width in [(32, 64), (160, 576), (128, 2048)]:
        weight, bias = torch.randn(out, width), torch.randn(out).bfloat16()
        packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind)
        absmax = state.absmax.view(-1, 32, width // 64).transpose(1, 2).bfloat16().contiguous()
        groups, table = to_row_groups(packed.view(out, -1)), state.code
        matrix = ops.fourbit_matrix(groups, absmax, table, bias)
        codes = torch.stack((packed.view(-1) >> 4, packed.view(-1) & 15), dim=-1).long()
        # rounded as in the kernel
        restored = table.bfloat16().double()[codes].view(-1, 64) * state.absmax.bfloat16().double()[:, None]
        for rows in (1, 2, 3, 7, 16):
            x = torch.randn(rows, width).bfloat16()
            check(
                ops.linear(fourbit, x, matrix), F.linear(x.double(), restored.view(out, width), bias.double())
            )


@pytest.mark.parametrize("rows", [17, 32, 400, 1030])
def test_many_rows(tiles: Library, rows: int, threads: int) -> None:
    for out, width in WIDE:
        x, weight = torch.randn(rows, width).bfloat16(), torch.randn(out, width).bfloat16()
        bias = torch.randn(out).bfloat16()
        reference = F.linear(x.double(), weight.double(), bias.double())
        matrix = ops.dense_matrix(weight, bias)
        assert ops.takes(tiles, x, matrix)
        check(ops.linear(tiles, x, matrix), reference)
        if out % 2 == 0:
            check(ops.linear(tiles, x, matrix, "silu"), plain.gate(reference, "silu"))
        codes, scales = torch.randint(-127, 128, (out, width), dtype=torch.int8), torch.rand(out).bfloat16()
        reference = F.linear(x.double(), codes * scales[:, None].double(), bias.double())
        matrix = ops.int8_matrix(codes, scales, bias)
        check(ops.linear(tiles, x.view(1, rows, width), matrix)[0], reference)


@pytest.mark.parametrize("mode", ["bnb.nf4", "bnb.fp4"])
def test_many_rows_of_4_bits(tiles: Library, mode: str, threads: int) -> None:
    for out, width in [(32, 64), (96, 576), (64, 2112)]:
        product = FastFourBitProduct(MODES[mode].quantize(torch.randn(out, width)))
        x = torch.randn(70, width).bfloat16()
        check(product.multiply(x), F.linear(x.double(), product.dequantized().double()))
        check(
            product.multiply(x.float()), F.linear(x.double(), product.dequantized().double()), torch.bfloat16
        )
        gated = jobs.gated_linear(x, product, "silu")
        torch.testing.assert_close(gated, jobs.gate(product.multiply(x), "silu"))


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_jobs_equal_their_plain_twins(kernels: Library, dtype: torch.dtype, rows: int) -> None:
    """Whatever way a job is done: by a kernel, or not, as of 16-bit floats."""
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((rows, 96), (64, 96), (64,)))
    twin = plain.linear(x, weight, bias)
    check(jobs.linear(x, weight, bias), twin.double())
    layer = Linear(96, 64)
    layer.weight, layer.bias = (nn.Parameter(t, requires_grad=False) for t in (weight, bias))
    check(jobs.multiply(x, layer), layer.plain(x).double())
    for activation in plain.ACTIVATIONS:
        check(jobs.gate(twin, activation), plain.gate(twin, activation).double())
        check(jobs.gated_linear(x, layer, activation), plain.gate(twin, activation).double())
    for offset in (0.0, 1.0):
        check(jobs.rms_norm(x, x[0], 1e-5, offset), plain.rms_norm(x, x[0], 1e-5, offset).double())
    if dtype is not torch.float16:
        product = EightBitProduct(MODES["bnb.int8"].quantize(weight.float()), dtype)
        check(product.multiply(x), product.plain(x).double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 400])
def test_gate(kernels: Library, rows: int, dtype: torch.dtype, threads: int) -> None:
    for width in (7, 200):
        x = torch.randn(1, rows, 2 * width).to(dtype)
        for activation in ("silu", "gelu_tanh"):
            check(ops.gate(kernels, x, activation), plain.gate(x.double(), activation))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(kernels: Library, dtype: torch.dtype, offset: float) -> None:
    for width in (576, 100, 7):
        x, weight = torch.randn(4, width, 3).to(dtype).transpose(1, 2), torch.randn(width).to(dtype)
        reference = F.rms_norm(x.double(), (width,), weight.double() + offset, 1e-5)
        check(ops.rms_norm(kernels, x, weight, 1e-5, offset), reference)


def test_what_kernels_cannot_work_on(kernels: Library) -> None:
    x, weight = torch.randn(2, 32), torch.randn(8, 32)
    assert ready(x) is kernels
    assert ready(x.half()) is ready(torch.empty(0, 32)) is ready(torch.empty(2, 32, device="meta")) is None
    assert ready(torch.randn(2, 32, requires_grad=True)) is None
    assert ops.dense_matrix(weight.t()) is ops.dense_matrix(weight.half()) is None
    assert ops.dense_matrix(torch.randn(8, 32, requires_grad=True)) is None
    assert ops.dense_matrix(weight, torch.randn(8).half()) is None
    matrix = ops.dense_matrix(weight)
    assert ops.takes(kernels, x, matrix)
    assert not ops.takes(kernels, x.bfloat16(), matrix)
    assert not ops.takes(kernels, torch.randn(17, 32), matrix)

"""The kernels equal plain PyTorch, whatever shapes, types, strides and threads; without a compiler there are none."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mygpt import kernels
from mygpt.kernels.cpu import build, ops
from mygpt.model.config import Config, RopeConfig
from mygpt.model.gpt import GPT
from mygpt.model.kv_cache import KVCache, LayerShape
from mygpt.model.rope import rotate
from mygpt.quantize.formats.bnb import MODES
from mygpt.quantize.matmul import FastFourBitProduct, to_row_groups

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="no kernels on this machine")
DTYPES = [torch.float32, torch.bfloat16]
# Of the largest number of the result: a float32 sum, or up to three roundings to bfloat16 on the way.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SHAPES = [(960, 576), (37, 100), (2, 16), (6, 7), (130, 2048)]  # (out, in)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def check(y: Tensor, reference: Tensor) -> None:
    assert y.shape == reference.shape
    error = (y.double() - reference).abs().max() / reference.abs().max().clamp(min=0.01)
    assert error < TOLERANCE[y.dtype]


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape: tuple[int, int], dtype: torch.dtype, threads: int) -> None:
    weight, bias = torch.randn(shape).to(dtype), torch.randn(shape[0]).to(dtype)
    for rows in range(1, 17):
        x = torch.randn(2 * rows, shape[1]).to(dtype)[::2]  # not contiguous
        reference = F.linear(x.double(), weight.double(), bias.double())
        check(kernels.linear(x, weight, bias), reference)
        check(kernels.linear(x.view(rows, 1, -1), weight), (x.double() @ weight.double().t())[:, None])
        if shape[0] % 2 == 0:
            gate, up = reference.chunk(2, dim=-1)
            check(kernels.gated_linear(x, weight, bias, "silu"), F.silu(gate) * up)
            gelu = F.gelu(gate, approximate="tanh")
            check(kernels.gated_linear(x, weight, bias, "gelu_tanh"), gelu * up)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_quantized_products(rows: int, dtype: torch.dtype, threads: int) -> None:
    for out, width in SHAPES:
        x, bias = torch.randn(rows, width).to(dtype), torch.randn(out).to(dtype)
        weight, scales = torch.randint(-127, 128, (out, width), dtype=torch.int8), torch.rand(out).to(dtype)
        reference = F.linear(x.double(), weight * scales[:, None].double(), bias.double())
        check(kernels.multiply(x, kernels.int8_matrix(weight, scales, bias)), reference)


@needs_kernels
def test_int8_products_lose_nothing_beside_outliers() -> None:
    """Nothing but the last rounding; and what is not finite is not lost."""
    x, weight = torch.randn(2, 2000).bfloat16(), torch.randint(-127, 128, (64, 2000), dtype=torch.int8)
    x[:, 7], scales = 1000, torch.ones(64).bfloat16()
    matrix = kernels.int8_matrix(weight, scales)
    reference = x.double() @ weight.double().t()
    torch.testing.assert_close(kernels.multiply(x, matrix).double(), reference, rtol=2**-8, atol=0.5)
    assert torch.equal(kernels.multiply(x * 0, matrix), torch.zeros(2, 64).bfloat16())
    for odd in (torch.nan, torch.inf):
        x[0, 5] = odd
        y = kernels.multiply(x, matrix)
        assert not y[0].isfinite().any()
        assert y[1].isfinite().all()


@needs_kernels
@pytest.mark.skipif(not kernels.has_fourbit(), reason="needs AVX512-VNNI")
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_as_bitsandbytes_has_them(kind: str, threads: int) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    for out, width in [(32, 64), (160, 576), (128, 2048)]:
        weight, bias = torch.randn(out, width), torch.randn(out).bfloat16()
        packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind)
        absmax = state.absmax.view(-1, 32, width // 64).transpose(1, 2).bfloat16().contiguous()
        groups, table = to_row_groups(packed.view(out, -1)), state.code
        matrix = kernels.fourbit_matrix(groups, absmax, table, bias)
        codes = torch.stack((packed.view(-1) >> 4, packed.view(-1) & 15), dim=-1).long()
        # rounded as in the kernel
        restored = table.bfloat16().double()[codes].view(-1, 64) * state.absmax.bfloat16().double()[:, None]
        for rows in (1, 2, 3, 7, 16):
            x = torch.randn(rows, width).bfloat16()
            check(kernels.multiply(x, matrix), F.linear(x.double(), restored.view(out, width), bias.double()))


@needs_kernels
@pytest.mark.skipif(not ops.has_tiles(), reason="needs AVX512-BF16")
@pytest.mark.parametrize("rows", [1, 17, 32, 400, 1030])
def test_products_of_many_rows(rows: int, threads: int) -> None:
    for out, width in [(37, 100), (128, 64), (96, 1600), (64, 2112), (40, 8200), (74, 96)]:
        x, weight = torch.randn(rows, width).bfloat16(), torch.randn(out, width).bfloat16()
        bias = torch.randn(out).bfloat16()
        reference = F.linear(x.double(), weight.double(), bias.double())
        check(kernels.multiply_many(x, kernels.matrix(weight, bias)), reference)
        if out % 2 == 0:
            gate, up = reference.chunk(2, dim=-1)
            check(kernels.multiply_many(x, kernels.matrix(weight, bias), "silu"), F.silu(gate) * up)
        codes, scales = torch.randint(-127, 128, (out, width), dtype=torch.int8), torch.rand(out).bfloat16()
        reference = F.linear(x.double(), codes * scales[:, None].double(), bias.double())
        matrix = kernels.int8_matrix(codes, scales, bias)
        check(kernels.multiply_many(x.view(1, rows, width), matrix)[0], reference)


@needs_kernels
@pytest.mark.skipif(
    not (ops.has_tiles() and kernels.has_fourbit()), reason="needs AVX512-BF16 and AVX512-VNNI"
)
@pytest.mark.parametrize("mode", ["bnb.nf4", "bnb.fp4"])
def test_four_bits_of_many_rows(mode: str, threads: int) -> None:
    for out, width in [(32, 64), (96, 576), (64, 2112)]:
        product = FastFourBitProduct(MODES[mode].quantize(torch.randn(out, width)))
        matrix = kernels.fourbit_matrix(product.rows, product.absmax, product.levels)
        x = torch.randn(70, width).bfloat16()
        check(kernels.multiply_many(x, matrix), F.linear(x.double(), product.dequantized().double()))
        assert torch.equal(product.multiply(x), kernels.multiply_many(x, matrix))
        if (gated := product.tile_matrix(x)) is not None:
            both = kernels.multiply_many(x, matrix)
            torch.testing.assert_close(kernels.multiply_many(x, gated, "silu"), kernels.gate(both, "silu"))


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 400])
def test_gate(rows: int, dtype: torch.dtype, threads: int) -> None:
    for width in (7, 200):
        x = torch.randn(1, rows, 2 * width).to(dtype)
        gate, up = x.double().chunk(2, dim=-1)
        check(kernels.gate(x, "silu"), F.silu(gate) * up)
        check(kernels.gate(x, "gelu_tanh"), F.gelu(gate, approximate="tanh") * up)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(dtype: torch.dtype, offset: float) -> None:
    for width in (576, 100, 7):
        x, weight = torch.randn(4, width, 3).to(dtype).transpose(1, 2), torch.randn(width).to(dtype)
        reference = F.rms_norm(x.double(), (width,), weight.double() + offset, 1e-5)
        check(kernels.rms_norm(x, weight, 1e-5, offset), reference)


@needs_kernels
@pytest.mark.skipif(not ops.has_tiles(), reason="needs AVX512-BF16")
@pytest.mark.parametrize("new", [2, 33, 150])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rotated"), [(6, 2, 64, 64), (3, 3, 96, 32), (5, 1, 32, 0)]
)
def test_attention_of_many_tokens(
    new: int, heads: int, kv_heads: int, dim: int, rotated: int, threads: int
) -> None:
    """Of sequences of different lengths, in a cache that is full, beside whose end nothing may be read or written."""
    starts = torch.tensor([[0], [5], [171]])
    slots = 171 + new
    around = torch.full((2, 3, kv_heads, slots + 2, dim), torch.nan).bfloat16()
    keys, values = cache = around[:, :, :, 1:-1]
    for row, start in enumerate(starts):
        cache[:, row, :, :start] = torch.randn(2, kv_heads, int(start), dim)
    before = cache.clone()
    qk, v = (
        torch.randn(3, new, heads + 2 * kv_heads, dim).bfloat16().split((heads + kv_heads, kv_heads), dim=2)
    )
    angles = torch.randn(3, new, 1, rotated // 2)
    cos, sin = (
        angles.cos().repeat(1, 1, 1, 2).bfloat16(),
        torch.cat((-angles.sin(), angles.sin()), -1).bfloat16(),
    )
    positions = starts + torch.arange(new)
    tables = (cos, sin) if rotated else None
    call = kernels.attention_call(heads, tables, (keys, values), slots, positions, slots, None)
    y = kernels.attend(qk, v, call)

    turned = rotate(qk, cos, sin) if rotated else qk
    q, k = turned[:, :, :heads], turned[:, :, heads:]
    for row, start in enumerate(starts.flatten().tolist()):
        before[0, row, :, start : start + new] = k[row].transpose(0, 1)
        before[1, row, :, start : start + new] = v[row].transpose(0, 1)
        seen = before[:, row, :, : start + new].double().repeat_interleave(heads // kv_heads, dim=1)
        mask = torch.arange(start + new) <= positions[row][:, None]
        reference = F.scaled_dot_product_attention(q[row].transpose(0, 1).double(), *seen, attn_mask=mask)
        check(y[row], reference.transpose(0, 1))
    torch.testing.assert_close(cache, before, equal_nan=True)
    assert around[:, :, :, (0, -1)].isnan().all()


def llama(**changes: object) -> Config:
    sizes = {
        "vocab_size": 64,
        "n_layers": 2,
        "hidden_size": 48,
        "n_heads": 6,
        "n_kv_heads": 2,
        "head_dim": 32,
    }
    facts = {"intermediate_size": 72, "context_length": 512, "rope": RopeConfig(dim=32)}
    return Config(**{**sizes, **facts, **changes})  # type: ignore[arg-type]


CONFIGS = {
    "llama": llama(),
    "partly rotated, biases": llama(rope=RopeConfig(dim=16), attention_bias=True, mlp_bias=True),
    "one key head": llama(n_kv_heads=1, n_heads=3),
    "window": llama(layer_windows=(0, 40)),
    "query norm": llama(qk_norm="head"),
    "not rotated": llama(unrotated_layers=(1,)),
    "gemma": llama(norm="rms_one_plus", activation="gelu_tanh", residual="sandwich"),
    "scaled": llama(residual_scale=0.3, attention_scale=0.2),
    "softcap": llama(attention_softcap=5.0),
    "experts' width": llama(head_dim=80, rope=RopeConfig(dim=80)),
}


def random_model(config: Config, dtype: torch.dtype) -> GPT:
    model = GPT(config).to(dtype).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    return model


def steps(model: GPT, prompts: Tensor, lengths: list[int], new: Tensor) -> Tensor:
    """Logits of a prefill and of single steps after it, of sequences of different lengths."""
    shapes = [LayerShape(model.config.n_kv_heads, model.config.head_dim, w) for w in model.config.windows]
    dtype = model.embed.weight.dtype
    cache = KVCache(shapes, len(prompts), 400, [torch.device("cpu")] * len(shapes), dtype)
    last = [length - 1 for length in lengths]
    logits = [model(prompts, cache, logits_indices=last)]
    cache.advance(lengths)
    for ids in new:
        logits.append(model(ids[:, None], cache, logits_indices=[0] * len(prompts)))
        cache.advance([1] * len(prompts))
    return torch.stack(logits)


@needs_kernels
@pytest.mark.parametrize("lengths", [[5], [300], [5, 139, 60], [30, 30]], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_models(name: str, lengths: list[int], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same logits with kernels and without, cache included: over chunks, windows and ragged batches."""
    model = random_model(CONFIGS[name], torch.float32)
    prompts, new = torch.randint(64, (len(lengths), max(lengths))), torch.randint(64, (6, len(lengths)))
    with_kernels = steps(model, prompts, lengths, new)
    monkeypatch.setattr(ops, "library", lambda: None)
    check(with_kernels, steps(model, prompts, lengths, new).double())


@needs_kernels
@pytest.mark.skipif(not ops.has_tiles(), reason="needs AVX512-BF16")
@pytest.mark.parametrize("lengths", [[9], [300], [5, 139, 60]], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_models_with_many_rows(name: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As near to the same model in float64 as torch's bfloat16 is."""
    model = random_model(CONFIGS[name], torch.bfloat16)
    prompts, new = torch.randint(64, (len(lengths), max(lengths))), torch.randint(64, (3, len(lengths)))
    with_kernels = steps(model, prompts, lengths, new)
    monkeypatch.setattr(ops, "library", lambda: None)
    without = steps(model, prompts, lengths, new)
    reference = steps(copy.deepcopy(model).double(), prompts, lengths, new)
    ours, torchs = ((y.double() - reference).norm() / reference.norm() for y in (with_kernels, without))
    assert ours < 1.3 * torchs + 1e-3


@needs_kernels
@torch.inference_mode()
def test_a_whole_block_takes_new_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(llama(), torch.bfloat16)
    prompts, new = torch.randint(64, (1, 9)), torch.randint(64, (3, 1))
    before = steps(model, prompts, [9], new)
    assert all(layer.fused is not None for layer in model.layers)
    mlp = model.layers[1].mlp
    mlp.down.weight = torch.nn.Parameter(mlp.down.weight * 2, requires_grad=False)
    after = steps(model, prompts, [9], new)
    assert not torch.equal(before, after)
    monkeypatch.setattr(ops, "library", lambda: None)
    reference = steps(model, prompts, [9], new).double()
    assert (after.double() - reference).abs().max() / reference.abs().max() < 0.03


def test_what_does_not_fit_is_left_to_torch() -> None:
    x, weight = torch.randn(2, 32), torch.randn(8, 32)
    assert not kernels.fits_linear(x.half(), weight.half())
    assert not kernels.fits_linear(x.bfloat16(), weight)
    assert not kernels.fits_linear(torch.randn(17, 32), weight)
    assert not kernels.fits_linear(x, torch.randn(32, 8).t())
    assert not kernels.fits_linear(x.requires_grad_(), weight)
    assert not kernels.fits(torch.empty(2, 32, device="meta"))
    assert not kernels.fits(torch.empty(0, 32))


@needs_kernels
@pytest.mark.skipif(not ops.has_tiles(), reason="needs AVX512-BF16")
def test_many_rows_without_a_matrix_unit(fresh: Path) -> None:
    """The same tests of kernels that were compiled for a CPU that has AVX512-BF16 but no AMX."""
    code = f"""
import sys, pytest, torch
torch.cpu._is_amx_tile_supported = lambda: False
from mygpt.kernels import library
from mygpt.kernels.cpu import ops
assert library().mygpt_has_tiles() == ops._BY_VECTORS
sys.exit(pytest.main(["-p", "no:cacheprovider", {__file__!r}, "-k", "of_many or whole_block"]))
"""
    environment = {**os.environ, "CC": "cc -mno-amx-bf16 -mno-amx-int8 -mno-amx-tile"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


BUILD = "from mygpt.kernels import library; assert library() is not None"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of compiled kernels."""
    monkeypatch.setenv("MYGPT_CACHE", str(tmp_path))
    monkeypatch.delenv("MYGPT_KERNELS", raising=False)
    build.library.cache_clear()
    yield tmp_path / "kernels"
    monkeypatch.undo()
    build.library.cache_clear()


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler(fresh: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("PATH", "/nowhere" if compiler != "false" else "/usr/bin:/bin")
    assert build.library() is None
    assert not kernels.fits(torch.ones(1, 16))
    assert not list(fresh.glob("*"))


def test_turned_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_KERNELS", "0")
    assert build.library() is None


def test_without_a_place_to_write(fresh: Path) -> None:
    fresh.write_text("a file, no folder")
    assert build.library() is None


@needs_kernels
def test_a_broken_library_is_made_anew(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, "-c", BUILD], check=True)  # elsewhere: here it would stay loaded
    (made,) = fresh.glob("*")
    size = made.stat().st_size
    made.write_bytes(b"half a library")
    assert build.library() is not None
    assert made.stat().st_size == size
    assert capfd.readouterr().err == ""  # no terminal


@needs_kernels
def test_processes_may_build_at_the_same_time(fresh: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(subprocess.run, [sys.executable, "-c", BUILD], check=True) for _ in range(3)]
    assert all(run.result().returncode == 0 for run in runs)
    assert [path.suffix for path in fresh.glob("*")] == [".so"]

"""Quantized weights: what bitsandbytes makes of the same tensors, what the model makes of them, and their files."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from mygpt import LLM, kernels
from mygpt.checkpoint.convert import convert
from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.kernels.cpu import isa, library
from mygpt.loading.build import build
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.devices import DTYPES
from mygpt.parallel.placement import Placement
from mygpt.quantize.bnb_library import (
    bitsandbytes,
    cpu_library,
    has_fast_cpu_kernel,
    levels,
    nested_levels,
)
from mygpt.quantize.bnb_matrices import BnbMatrix, EightBit, FourBit
from mygpt.quantize.formats.bnb import MODES
from mygpt.quantize.linear import QuantizedLinear, quantizable, quantized_bytes
from mygpt.quantize.matmul import MANY_ROWS, from_row_groups, make_products, to_row_groups
from tests.families.variants import variant
from tests.models import edit_json, write_model

functional = bitsandbytes().functional
FOUR_BITS = [name for name in MODES if name != "bnb.int8"]
# Of what a matrix is off by, relative to the matrix. Of the logits of tiny random models it is about the same.
ERROR = {"bnb.nf4": 0.11, "bnb.nf4-dq": 0.11, "bnb.fp4": 0.15, "bnb.fp4-dq": 0.15, "bnb.int8": 0.02}
# What a bfloat16 model is off by, where the weights are the same.
ROUNDING = 0.04
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
FAMILY_SIZES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "gpt_neox": {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4},
    "falcon": {"hidden_size": 128, "num_attention_heads": 4, "ffn_hidden_size": 192},
}


def error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()


def random_matrix(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).mul(0.02).to(dtype)


def load(folder: Path, **options: Any) -> LLM:
    return LLM.load(str(folder), accelerator="cpu", **options)


@pytest.fixture(scope="module", params=FAMILY_SIZES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp(request.param), request.param, **FAMILY_SIZES[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), "llama", **SIZES)


def test_the_levels_are_bitsandbytes_own() -> None:
    for quant_type in ("nf4", "fp4"):
        theirs = functional.get_4bit_type(quant_type, device="cpu")
        assert levels(quant_type).view(torch.int32).tolist() == theirs.view(torch.int32).tolist()
    assert torch.equal(nested_levels(), functional.create_dynamic_map())


def test_the_fast_kernel_is_found_where_bitsandbytes_finds_it() -> None:
    """But not where MYGPT_ISA holds us below it."""
    assert has_fast_cpu_kernel() == (kernels.allows("avx512") and bool(functional.has_avx512bf16()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(64, 128), (7, 64), (5, 40), (3, 33), (130, 200)], ids=str)
@pytest.mark.parametrize("mode", FOUR_BITS)
def test_four_bits_are_bitsandbytes_own(mode: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random_matrix(*shape, dtype)
    ours = MODES[mode].quantize(weight)
    rows, state = functional.quantize_4bit(
        weight, quant_type=MODES[mode].quant_type, compress_statistics=MODES[mode].nested
    )
    assert isinstance(ours, FourBit)
    assert torch.equal(ours.rows.flatten(), rows.flatten())
    assert torch.equal(ours.absmax.flatten(), state.absmax)
    assert (ours.nested is not None) == state.nested
    if ours.nested:
        assert torch.equal(ours.nested.absmax, state.state2.absmax)
        assert torch.equal(ours.nested.offset, state.offset)
    assert torch.equal(ours.dequantize(dtype), functional.dequantize_4bit(rows, state))


def test_a_matrix_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_matrix(32, 192)
    whole = MODES["bnb.nf4-dq"].quantize(weight)
    monkeypatch.setattr("mygpt.quantize.bnb_matrices._CHUNK", 1024)
    parts = MODES["bnb.nf4-dq"].quantize(weight)
    assert torch.equal(parts.rows, whole.rows)
    assert torch.equal(parts.absmax, whole.absmax)


def test_eight_bits_are_bitsandbytes_own() -> None:
    weight = random_matrix(24, 40)
    ours = MODES["bnb.int8"].quantize(weight)
    rows, absmax, _ = functional.int8_vectorwise_quant(weight.half())
    assert torch.equal(ours.rows, rows)
    assert torch.equal(ours.absmax, absmax)
    expected = functional.int8_vectorwise_dequant(rows, absmax)
    torch.testing.assert_close(ours.dequantize(torch.float32), expected)


def test_the_layout_of_the_fast_kernel_is_bitsandbytes_own() -> None:
    rows, state = functional.quantize_4bit(random_matrix(96, 128), quant_type="nf4")
    ours = to_row_groups(rows.view(96, 64))
    theirs, _ = functional._convert_weight_packed_for_cpu(rows, state)
    assert torch.equal(ours, theirs)
    assert torch.equal(from_row_groups(ours), rows.view(96, 64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(64, 128), (33, 128), (64, 40), (3, 33)], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fast", [True, False], ids=["its-kernel", "without-avx512-bf16"])
def test_products(
    fast: bool, mode: str, shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast kernel or not: x of any size, times what the quantized weights stand for."""
    if not fast:
        monkeypatch.setattr("mygpt.quantize.matmul.has_fast_cpu_kernel", lambda: False)
    matrix = MODES[mode].quantize(random_matrix(*shape))
    weight = matrix.dequantize(torch.float32)
    (product,) = make_products([matrix], dtype)
    for rows in (1, 3, MANY_ROWS, MANY_ROWS + 1):
        x = torch.randn(rows, 2, shape[1]).to(dtype)
        y = product.multiply(x)
        assert (y.shape, y.dtype) == ((rows, 2, shape[0]), dtype)
        assert error(y, x.float() @ weight.t()) < 0.006  # bfloat16 rounds to 0.004 at most


def test_eight_bits_in_the_middle_of_a_file() -> None:
    """torch's kernel crashes where rows do not begin at a multiple of 16 bytes."""
    matrix = MODES["bnb.int8"].quantize(random_matrix(64, 128))
    elsewhere = torch.empty(64 * 128 + 1, dtype=torch.int8)[1:].view(64, 128).copy_(matrix.rows)
    (product,) = make_products([EightBit(elsewhere, matrix.absmax)], torch.bfloat16)
    x = torch.randn(5, 128).bfloat16()
    assert error(product.multiply(x), x.float() @ matrix.dequantize(torch.float32).t()) < 0.006


@pytest.mark.skipif(not has_fast_cpu_kernel(), reason="needs AVX512-BF16")
@pytest.mark.parametrize("mode", FOUR_BITS)
def test_the_fast_kernel_called_directly_gives_what_its_operator_gives(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isa, "level", lambda: "none")
    (product,) = make_products([MODES[mode].quantize(random_matrix(64, 128))], torch.bfloat16)
    x = torch.randn(3, 128).bfloat16()
    expected = torch.ops.bitsandbytes.gemv_4bit.default(
        x, product.rows, (64, 128), product._absmax_by_columns(), product.levels, 64
    )
    assert torch.equal(product.multiply(x), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("columns", [128, 40])
def test_stacked_parts_are_the_parts(mode: str, columns: int) -> None:
    parts = [MODES[mode].quantize(random_matrix(rows, columns)) for rows in (32, 64, 8)]
    x = torch.randn(2, columns).bfloat16()
    whole = torch.cat([p.multiply(x) for p in make_products(parts, x.dtype)], -1)
    for part, y in zip(parts, whole.split([32, 64, 8], -1), strict=True):
        assert error(y, x.float() @ part.dequantize(torch.float32).t()) < 0.006


@pytest.mark.parametrize("mode", MODES)
def test_shards(mode: str) -> None:
    """A shard of the quantized matrix is the shard quantized, but for nested scales, which see it whole."""
    weight = random_matrix(48, 192)
    matrix = MODES[mode].quantize(weight)
    for dim, start, length in ((0, 16, 16), (1, 64, 128)):
        shard = matrix.narrow(dim, start, length)
        assert shard.shape == weight.narrow(dim, start, length).shape
        assert torch.equal(
            shard.dequantize(torch.float32), matrix.dequantize(torch.float32).narrow(dim, start, length)
        )
    if mode != "bnb.int8":
        with pytest.raises(InputError, match="blocks of 64 columns"):
            matrix.narrow(1, 0, 96)


def dequantized(matrix: Tensor, mode: str) -> Tensor:
    return MODES[mode].quantize(matrix.bfloat16()).dequantize(torch.float32).to(matrix.dtype)


@pytest.mark.parametrize("mode", MODES)
def test_logits_are_those_of_the_dequantized_weights(folder: Path, mode: str) -> None:
    """Every linear layer is quantized and nothing else: a float32 model of such weights gives the same."""
    llm = load(folder, quantize=mode)
    assert (llm.loaded.precision, llm.loaded.quantized.scheme) == ("bf16-true", mode)
    plain = load(folder, precision="32-true")
    ids = torch.arange(3 * 20).view(3, 20)
    original = plain.logits(ids)
    for layer in quantizable(plain.loaded.model).values():
        parts = layer.weight.data.split(list(getattr(layer, "parts", {"": len(layer.weight)}).values()))
        layer.weight.data = torch.cat([dequantized(part, mode) for part in parts])
    assert error(llm.logits(ids), plain.logits(ids)) < ROUNDING
    assert error(llm.logits(ids), original) < 4 * ERROR[mode] + ROUNDING


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_any_precision(llama: Path, tmp_path: Path, mode: str, precision: str) -> None:
    """What is quantized has been cast before: from a bfloat16 file the quantized weights are the same in all."""
    convert(open_checkpoint(llama), tmp_path / "out", dtype=torch.bfloat16)
    llm = load(tmp_path / "out", quantize=mode, precision=precision)
    ids = torch.arange(20)[None]
    assert llm.loaded.model.embed.weight.dtype == DTYPES[precision]
    assert error(llm.logits(ids), load(tmp_path / "out", quantize=mode).logits(ids)) < ROUNDING
    # one token at a time, from the cache
    assert llm.generate_ids([1, 2, 3], max_new_tokens=4, temperature=0.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["qwen2_moe", "mixtral"])
def test_of_a_mixture_the_experts_are_quantized_but_not_the_router(
    tmp_path: Path, name: str, mode: str
) -> None:
    variant(MIXTURES[name]).build(tmp_path)
    model = load(tmp_path, quantize=mode).loaded.model
    moe = next(layer.mlp for layer in model.layers if hasattr(layer.mlp, "router"))
    assert moe.router.weight.dtype == model.embed.weight.dtype == torch.bfloat16
    assert isinstance(moe.experts[0].gate_up, QuantizedLinear)
    if moe.shared is not None:
        assert moe.shared.scale.weight.dtype == torch.bfloat16
        assert isinstance(moe.shared.mlp.down, QuantizedLinear)


MIXTURES = {"qwen2_moe": "qwen2-moe", "mixtral": "mixtral"}


@pytest.mark.parametrize("mode", MODES)
def test_a_token_goes_through_a_whole_block_in_one_call(
    llama: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are those of the layers one by one, by torch and bitsandbytes."""
    llm = load(llama, quantize=mode)
    model, prompt, new = llm.loaded.model, torch.arange(9)[None], torch.tensor([[3]])

    def step() -> Tensor:
        with torch.inference_mode():
            cache = model.allocate_cache(1, 16)
            model(prompt, cache, logits_indices=[8])
            cache.advance([9])
            return model(new, cache, logits_indices=[0])

    fused = step()
    found = library.active()
    own = found is not None and (mode == "bnb.int8" or (found.has_fourbit and has_fast_cpu_kernel()))
    assert all((layer.fused is not None) == own for layer in model.layers)
    monkeypatch.setattr(isa, "level", lambda: "none")
    assert error(fused, step()) < ROUNDING


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    write_model(tmp_path, "llama", **SIZES, tie_word_embeddings=True)
    model = load(tmp_path, quantize="bnb.nf4").loaded.model
    assert model.head is None
    assert model.embed.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("mode", MODES)
def test_bytes_are_known_before_loading(folder: Path, mode: str) -> None:
    checkpoint = open_checkpoint(folder)
    family, config = read_config(checkpoint.config)
    with torch.device("meta"):
        meta = GPT(config)
    model, _ = build(
        checkpoint,
        family,
        config,
        Placement(None, (torch.device("cpu"),), ("cpu",)),
        LoadOptions(quantize=mode),
    )
    for path, layer in quantizable(meta).items():
        loaded = model.get_submodule(path)
        held = sum(tensor.nbytes for tensor in loaded.products.buffers())
        expected = quantized_bytes(layer, MODES[mode], torch.bfloat16, "cpu")
        assert loaded.weight_bytes == expected == held, path


def same(matrix: BnbMatrix, other: BnbMatrix) -> bool:
    return torch.equal(matrix.rows, other.rows) and torch.equal(matrix.absmax, other.absmax)


@pytest.mark.parametrize("mode", MODES)
def test_stored_is_the_same_as_quantized_on_the_fly(llama: Path, tmp_path: Path, mode: str) -> None:
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES[mode])
    stored, fresh = load(tmp_path / "out"), load(llama, quantize=mode)
    ids = torch.arange(40).view(2, 20)
    assert torch.equal(stored.logits(ids), fresh.logits(ids))
    assert stored.loaded.quantized == fresh.loaded.quantized


@pytest.mark.parametrize("mode", MODES)
def test_fused_matrices_are_stored_fused(folder: Path, tmp_path: Path, mode: str) -> None:
    """Nested scales are then those of the file's matrix, the others the same as of its parts."""
    convert(open_checkpoint(folder), tmp_path / "out", scheme=MODES[mode])
    ids = torch.arange(40).view(2, 20)
    stored, fresh = load(tmp_path / "out").logits(ids), load(folder, quantize=mode).logits(ids)
    assert error(stored, fresh) < (ERROR[mode] / 4 if MODES[mode].nested else 1e-9)


BNB = {
    "bnb.nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "bnb.nf4-dq": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "bnb.fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "bnb.int8": BitsAndBytesConfig(load_in_8bit=True),
}


def as_transformers(mode: str) -> float:
    """What may lie between us and transformers, in float32: MYGPT_ISA does not hold its kernel."""
    same_kernels = has_fast_cpu_kernel() == functional.has_avx512bf16()
    return 0.005 if same_kernels and mode != "bnb.int8" else ROUNDING


# transformers quantizes no Falcon: its linear layers are a class of their own.
QUANTIZED_BY_TRANSFORMERS = ["llama", "gpt_neox"]


@pytest.mark.parametrize("folder", QUANTIZED_BY_TRANSFORMERS, indirect=True)
@pytest.mark.parametrize("mode", BNB)
def test_a_folder_of_transformers_loads(folder: Path, tmp_path: Path, mode: str) -> None:
    """The same kernels in both, and float32 around them. But 8-bit products quantize x too in transformers."""
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BNB[mode], dtype=torch.float32, device_map="cpu"
    ).eval()
    theirs.save_pretrained(tmp_path / "saved")
    ids = torch.arange(40).view(2, 20)
    llm = load(tmp_path / "saved", precision="32-true")
    assert llm.loaded.quantized.scheme == mode
    with torch.no_grad():
        assert error(llm.logits(ids), theirs(ids).logits) < as_transformers(mode)


@pytest.mark.parametrize("folder", QUANTIZED_BY_TRANSFORMERS, indirect=True)
@pytest.mark.parametrize("mode", MODES)
def test_transformers_loads_our_folders(folder: Path, tmp_path: Path, mode: str) -> None:
    convert(open_checkpoint(folder), tmp_path / "out", dtype=torch.float32, scheme=MODES[mode])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", device_map="cpu").eval()
    assert theirs.dtype == torch.float32
    ids = torch.arange(40).view(2, 20)
    llm = load(tmp_path / "out", precision="32-true")
    with torch.no_grad():
        assert error(llm.logits(ids), theirs(ids).logits) < as_transformers(mode)


def test_another_mode_than_the_stored_one_is_refused(llama: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES["bnb.nf4"])
    with pytest.raises(InputError, match=r"bnb\.int8: .* is stored as bnb\.nf4 already"):
        load(tmp_path / "out", quantize="bnb.int8")
    load(tmp_path / "out", quantize="bnb.nf4")


def test_a_broken_stored_matrix_is_refused(llama: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES["bnb.nf4"])
    file = tmp_path / "out" / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.0.mlp.down_proj.weight"
    save_file(weights | {f"{name}.absmax": weights[f"{name}.absmax"][:-1].clone()}, file)
    with pytest.raises(InputError, match=r"down_proj\.weight is not as bitsandbytes writes it"):
        load(tmp_path / "out")
    del weights[f"{name}.absmax"]
    save_file(weights, file)
    with pytest.raises(InputError, match=r"down_proj\.weight is not as bitsandbytes writes it"):
        load(tmp_path / "out")


def state(**changes: Any) -> Callable[[Tensor], Tensor]:
    """A quantization state with other values."""

    def change(old: Tensor) -> Tensor:
        values = {**json.loads(bytes(old.tolist())), **changes}
        return torch.tensor([*json.dumps(values).encode()], dtype=torch.uint8)

    return change


def shorter(old: Tensor) -> Tensor:
    return old[:-1].clone()


STATE = "weight.quant_state.bitsandbytes__nf4"
# Of the matrix (128, 192): the mode, the part, how it is changed, and what is told.
WRONG: dict[str, tuple[str, str, Callable[[Tensor], Tensor], str]] = {
    "layout": ("bnb.int8", "weight_format", lambda old: old + 1, "an old one of a single GPU's"),
    "SCB": ("bnb.int8", "SCB", shorter, r"scales \(127,\) torch\.float32 in place of \(128,\)"),
    "SCB whole": ("bnb.int8", "SCB", lambda old: old.int(), r"in torch\.int32"),
    "int8 flat": ("bnb.int8", "weight", torch.flatten, r"no 8-bit matrix is \(24576,\)"),
    "bytes": ("bnb.nf4", "weight", shorter, r"12287 bytes for \(128, 192\)"),
    "absmax": ("bnb.nf4", "weight.absmax", shorter, r"383 scales for \(128, 192\)"),
    "absmax whole": ("bnb.nf4", "weight.absmax", Tensor.byte, r"in torch\.uint8"),
    "nested codes in floats": ("bnb.nf4-dq", "weight.absmax", Tensor.float, r"scales \(128, 3\) torch\.float32"),
    "quant_map": ("bnb.nf4", "weight.quant_map", shorter, r"\(15,\) levels"),
    "quant_map whole": ("bnb.nf4", "weight.quant_map", Tensor.int, r"in torch\.int32"),
    "nested_absmax": ("bnb.nf4-dq", "weight.nested_absmax", shorter, r"\(1,\) .* in place of \(2,\)"),
    "nested_absmax whole": ("bnb.nf4-dq", "weight.nested_absmax", Tensor.long, r"in torch\.int64"),
    "nested_quant_map": ("bnb.nf4-dq", "weight.nested_quant_map", shorter, r"\(255,\) .* in place of \(256,\)"),
    "nested_quant_map complex": ("bnb.nf4-dq", "weight.nested_quant_map", Tensor.bool, r"in torch\.bool"),
    "nested blocks": ("bnb.nf4-dq", STATE, state(nested_blocksize=128), "nested blocks of 128"),
    "nested offset": ("bnb.nf4-dq", STATE, state(nested_offset=10**400), "too large"),
    "no blocks": ("bnb.nf4", STATE, state(blocksize=0), "in blocks of 0"),
    "other blocks": ("bnb.nf4", STATE, state(blocksize=-64), "in blocks of -64"),
    "blocks of text": ("bnb.nf4", STATE, state(blocksize="64"), "in blocks of '64'"),
    "unknown type": ("bnb.nf4", STATE, state(quant_type="nf3"), "'nf3' is not known"),
    "negative shape": ("bnb.nf4", STATE, state(shape=[-128, -192]), r"no matrix is \[-128, -192\]"),
    "huge shape": ("bnb.nf4", STATE, state(shape=[2**70, 192]), "no matrix is"),
    "flat shape": ("bnb.nf4", STATE, state(shape=[128 * 192]), r"no matrix is \[24576\]"),
    "no shape": ("bnb.nf4", STATE, state(shape=None), "not iterable"),
    "no object": ("bnb.nf4", STATE, lambda old: old[:1].clone(), "Expecting"),
    "too deep": ("bnb.nf4", STATE, lambda old: torch.full((10**5,), ord("["), dtype=torch.uint8), "recursion"),
}  # fmt: skip


@pytest.mark.parametrize(("mode", "part", "change", "why"), WRONG.values(), ids=WRONG)
def test_each_way_in_which_a_stored_matrix_can_be_wrong(
    llama: Path, tmp_path: Path, mode: str, part: str, change: Callable[[Tensor], Tensor], why: str
) -> None:
    """It is seen before a kernel gets the address of a part."""
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES[mode])
    file = tmp_path / "out" / "model.safetensors"
    weights, name = load_file(file), f"model.layers.0.mlp.down_proj.{part}"
    save_file(weights | {name: change(weights[name])}, file)
    with pytest.raises(InputError, match=rf"down_proj\.weight is not as bitsandbytes writes it .*{why}"):
        load(tmp_path / "out")


@pytest.mark.parametrize("level", ["", "none"], ids=["kernels", "no kernels"])
@pytest.mark.parametrize("part", ["weight.nested_absmax", "weight.nested_quant_map", "weight.absmax", "SCB"])
def test_no_process_dies_of_a_stored_matrix(llama: Path, tmp_path: Path, part: str, level: str) -> None:
    """A kernel that reads past the end of a part may end it by a signal."""
    mode = "bnb.int8" if part == "SCB" else "bnb.nf4-dq"
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES[mode])
    file = tmp_path / "out" / "model.safetensors"
    weights = load_file(file)
    cut = {name: old.flatten()[:1].clone() for name, old in weights.items() if name.endswith(part)}
    save_file(weights | cut, file)
    command = [sys.executable, "-m", "mygpt", "generate", str(tmp_path / "out"), "--prompt", "Hi"]
    environment = {**os.environ, "MYGPT_ISA": level} if level else None
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "is not as bitsandbytes writes it" in done.stderr


def test_a_stored_matrix_that_its_family_keeps_transposed_is_refused(tmp_path: Path) -> None:
    """GPT-2's: its rows in the file are not ours."""
    file = tmp_path / "model.safetensors"
    variant("gpt2").build(tmp_path)
    weights = load_file(file)
    for name in [name for name in weights if "c_fc.weight" in name]:
        weights |= {name: weights[name].char(), name.replace("weight", "SCB"): torch.ones(len(weights[name]))}
    save_file(weights, file)
    edit_json(
        tmp_path / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}
    )
    with pytest.raises(InputError, match=r"c_fc\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_a_part_of_a_fused_layer_may_be_left_unquantized(llama: Path, tmp_path: Path, mode: str) -> None:
    """As `llm_int8_skip_modules` names it."""
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES[mode])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    name = "model.layers.0.self_attn.q_proj"
    skipped = config["quantization_config"].get("llm_int8_skip_modules") or []
    config["quantization_config"]["llm_int8_skip_modules"] = [*skipped, "lm_head", name]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    file = tmp_path / "out" / "model.safetensors"
    weights = {key: value for key, value in load_file(file).items() if not key.startswith(name)}
    save_file(weights | {f"{name}.weight": load_file(llama / "model.safetensors")[f"{name}.weight"]}, file)
    ids = torch.arange(40).view(2, 20)
    mixed, whole, plain = load(tmp_path / "out"), load(llama, quantize=mode), load(llama)
    kinds = [type(product).__name__ for product in mixed.loaded.model.layers[0].attention.qkv.products]  # type: ignore[attr-defined]
    assert kinds[0] == "PlainProduct" and len(set(kinds)) == 2
    assert error(mixed.logits(ids), plain.logits(ids)) < 1.05 * error(whole.logits(ids), plain.logits(ids))


def test_other_formats_are_refused(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    for content in ({"quant_method": "gptq"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}):
        quantization = content | {"bnb_4bit_quant_type": "int3"}
        with pytest.raises(InputError, match=r"gptq|int3"):
            read_config(config | {"quantization_config": quantization})


@pytest.mark.parametrize("fast", [True, False], ids=["its-kernel", "without-avx512-bf16"])
def test_quantizing_on_a_cpu_is_quick_and_silent(llama: Path, fast: bool) -> None:
    """bitsandbytes and its operators import torch's compiler, which takes longer than a small model takes to load."""
    code = f"""
import sys
from mygpt import LLM
from mygpt.quantize import matmul
if not {fast}:
    matmul.has_fast_cpu_kernel = lambda: False
for mode in {[*MODES]}:
    llm = LLM.load({str(llama)!r}, quantize=mode, accelerator="cpu")
    assert llm.generate_ids([1, 2], max_new_tokens=2)
    assert not {{"torch._dynamo", "bitsandbytes"}} & {{*sys.modules}}, mode
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_bitsandbytes_is_silent() -> None:
    """It warns of kernels that could be downloaded."""
    code = "from mygpt.quantize.bnb_library import bitsandbytes; bitsandbytes()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_bitsandbytes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_library.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need bitsandbytes, which is not installed; pip install"):
        cpu_library()
    cpu_library.cache_clear()


def test_a_bitsandbytes_for_another_system_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu_library.cache_clear()
    elsewhere = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: elsewhere)
    with pytest.raises(InputError, match=r"bitsandbytes has no library for this CPU .*; pip install"):
        cpu_library()
    cpu_library.cache_clear()
    bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"quantized weights need bitsandbytes .*; pip install"):
        bitsandbytes()


def test_a_matrix_whose_blocks_run_over_its_rows_cannot_be_parted() -> None:
    blocks, scales = torch.zeros(4, 20, dtype=torch.uint8), torch.ones(3)
    stored = FourBit(torch.Size((4, 40)), "nf4", blocks, scales, None, 64)
    with pytest.raises(InputError, match="of 40 columns cannot be parted"):
        stored.split_rows(lambda rows: [rows])


def test_plain_models_do_not_wait_for_bitsandbytes(llama: Path) -> None:
    code = f"import sys; from mygpt import LLM; LLM.load({str(llama)!r}); assert 'bitsandbytes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_was_quantized_is_told(llama: Path) -> None:
    command = [sys.executable, "-m", "mygpt", "generate", str(llama), "--prompt", "a", "--json", "true"]
    options = ["--quantize", "bnb.nf4", "--accelerator", "cpu", "--max_new_tokens", "2"]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["quantize"] == "bnb.nf4"
    assert "bnb.nf4: 8 linears, 0.00 GB" in done.stderr

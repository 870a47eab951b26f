"""The registry of schemes: what each must answer, and that a new one is one class, registered once."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mygpt import LLM
from mygpt.__main__ import main
from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.options import LoadOptions
from mygpt.quantize import schemes
from mygpt.quantize.packed import RowSplit
from mygpt.quantize.schemes import (
    PackedScheme,
    Quantizer,
    Scheme,
    TensorFile,
    ggml_scheme,
    quantizers,
    registered,
    stored_scheme,
)
from tests.families.variants import variant
from tests.models import write_model
from tests.quantize.test_bnb import SIZES, error

# A `quantization_config` of each scheme that has one, and what of it is not supported.
CONFIGS: dict[str, dict[str, Any]] = {
    "bnb": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "mxfp4": {"quant_method": "mxfp4"},
}
REFUSED = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "int3"}, "'int3'"),
    ({"quant_method": "fp8", "fmt": "e5m2"}, "FP8 weights in e5m2"),
    ({"quant_method": "fp8", "weight_block_size": None}, "'weight_block_size' None"),
    ({"quant_method": "mxfp4"}, "'mxfp4' are supported of gpt_oss only, not of llama"),
    ({"quant_method": "awq"}, "'awq' are not supported, only with bitsandbytes, fp8, mxfp4"),
    ("awq", "'awq' are not supported"),
]


def module(scheme: type[Scheme]) -> str:
    return scheme.__module__.rpartition(".")[2]


@dataclass(frozen=True)
class Hundredths:
    """A matrix of bytes: whole numbers times a hundredth of each row's largest magnitude."""

    numbers: Tensor  # (N, K) int8
    largest: Tensor  # (N, 1) float32

    @property
    def shape(self) -> torch.Size:
        return self.numbers.shape

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.largest.nbytes

    @property
    def device(self) -> torch.device:
        return self.numbers.device

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Hundredths":
        return Hundredths(self.numbers.to(device), self.largest.to(device))

    def split_rows(self, split: RowSplit) -> list["Hundredths"]:
        return [Hundredths(*pair) for pair in zip(split(self.numbers), split(self.largest), strict=True)]

    def narrow(self, dim: int, start: int, length: int) -> "Hundredths":
        largest = self.largest if dim else self.largest.narrow(0, start, length)
        return Hundredths(self.numbers.narrow(dim, start, length), largest)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return (self.numbers * (self.largest / 100)).to(dtype)


class Toy(Quantizer):
    """All that mygpt is told of a scheme that it has never heard of."""

    name = "toy.hundredths"
    methods = ("toy",)

    @classmethod
    def read(cls, quantization: Mapping[str, Any], source: str) -> "Toy":
        return TOY

    @classmethod
    def offered(cls) -> tuple["Toy", ...]:
        return (TOY,)

    def packed_names(self, file: TensorFile) -> Collection[str]:
        return [name.removesuffix(".largest") for name in file.shapes() if name.endswith(".largest")]

    def tensors(self, file: TensorFile, device: torch.device) -> Iterator[tuple[str, Tensor | Hundredths]]:
        tensors = dict(file.tensors())
        for name, tensor in tensors.items():
            if f"{name}.largest" in tensors:
                yield name, Hundredths(tensor, tensors[f"{name}.largest"])
            elif not name.endswith(".largest"):
                yield name, tensor

    def layer_bytes(self, rows: Sequence[int], columns: int, dtype: torch.dtype, device_type: str) -> int:
        return sum(rows) * (columns + 4)

    def quantize(self, weight: Tensor) -> Hundredths:
        largest = weight.float().abs().amax(1, keepdim=True)
        return Hundredths((weight.float() / largest * 100).round().to(torch.int8), largest)

    def write(self, name: str, matrix: Hundredths, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        yield name, matrix.numbers
        yield f"{name}.largest", matrix.largest

    def quantization_config(self, dtype: str, skipped: list[str]) -> dict[str, Any]:
        return {"quant_method": "toy"}


TOY = Toy()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one place that a new scheme takes: no other file of mygpt knows it."""
    monkeypatch.setattr(schemes, "_schemes", [*registered()])
    schemes.register(Toy)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])  # the second fuses q, k and v in the file
def test_a_new_scheme_is_one_class(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = SIZES if family == "llama" else {"hidden_size": 128, "num_attention_heads": 4}
    folder = write_model(tmp_path / "model", family, **sizes)
    out = tmp_path / "out"
    assert main(["convert", str(folder), str(out), "--quantize", "toy.hundredths"]) == 0
    assert json.loads((out / "config.json").read_text())["quantization_config"] == {"quant_method": "toy"}
    assert any(name.endswith(".largest") for name in load_file(out / "model.safetensors"))

    ids = torch.arange(20)[None]
    stored = LLM.load(str(out), accelerator="cpu")
    fresh = LLM.load(str(folder), accelerator="cpu", quantize="toy.hundredths")
    assert torch.equal(stored.logits(ids), fresh.logits(ids))
    assert 0 < error(fresh.logits(ids), LLM.load(str(folder), accelerator="cpu").logits(ids)) < 0.1
    assert stored.generate_ids([1, 2, 3], max_new_tokens=4, temperature=0.0)
    summary = stored.loaded.quantized
    assert summary == fresh.loaded.quantized
    assert summary is not None
    assert summary.scheme == "toy.hundredths"

    capsys.readouterr()
    plans = []
    for options in ([str(out)], [str(folder), "--quantize", "toy.hundredths"]):
        assert main(["plan", *options, "--accelerator", "cpu", "--json", "true"]) == 0
        plans.append(json.loads(capsys.readouterr().out))
        del plans[-1]["memories"]  # what is free changes
    assert plans[0] == plans[1]
    assert plans[0]["quantize"] == "toy.hundredths"
    model = stored.loaded.model
    held = summary.nbytes + sum(parameter.nbytes for parameter in model.parameters())  # type: ignore[union-attr]
    assert plans[0]["devices"][0]["weights_bytes"] == held

    with pytest.raises(InputError, match=r"stored as toy\.hundredths already"):
        LLM.load(str(out), accelerator="cpu", quantize="bnb.nf4")
    assert main(["convert", str(out), str(tmp_path / "again"), "--quantize", "bnb.nf4"]) == 2
    assert "stored quantized already" in capsys.readouterr().err


def test_without_it_the_same_folder_is_refused() -> None:
    with pytest.raises(InputError, match="'toy' are not supported"):
        stored_scheme({"model_type": "llama", "quantization_config": {"quant_method": "toy"}}, "here")
    with pytest.raises(InputError, match="--quantize must be one of"):
        LoadOptions(quantize="toy.hundredths")


@pytest.mark.parametrize("scheme", registered(), ids=module)
def test_every_scheme_answers_every_question(scheme: type[Scheme]) -> None:
    variants: list[Scheme] = [*scheme.offered()]
    if scheme.methods:
        config = {"model_type": (scheme.model_types or ("llama",))[0]}
        found = stored_scheme(config | {"quantization_config": CONFIGS[module(scheme)]}, "here")
        assert type(found) is scheme
        variants.append(found)
    for ggml_type in scheme.ggml_types:
        found = ggml_scheme(ggml_type)
        assert type(found) is scheme
        variants.append(found)
    assert variants, "nothing leads to it"
    for one in variants:
        assert one.name.startswith(module(scheme))
        if isinstance(one, PackedScheme):
            layer = one.layer_bytes([64, 32], 128, torch.bfloat16, "cpu")
            assert 0 < layer < 96 * 128 * 2
        if isinstance(one, Quantizer):
            assert quantizers()[one.name] == one
            check_quantizer(one)


def check_quantizer(one: Quantizer) -> None:
    """What is made is read again as the same, whole and in slices."""
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    matrix = one.quantize(weight)
    assert matrix.shape == weight.shape
    assert matrix.nbytes < weight.nbytes
    assert error(matrix.dequantize(torch.float32), weight) < 0.2
    upper, lower = matrix.split_rows(lambda rows: rows.split([16, 48]))
    assert (upper.shape, lower.shape) == ((16, 128), (48, 128))
    assert matrix.narrow(1, 64, 64).to(torch.device("cpu")).shape == (64, 64)
    x = torch.randn(3, 128).bfloat16()
    products = one.products([matrix], x.dtype)
    assert sum(product.nbytes for product in products) == one.layer_bytes([64], 128, x.dtype, "cpu")
    assert all(product.device == weight.device for product in products)
    content = one.quantization_config("bfloat16", [])
    assert stored_scheme({"model_type": "llama", "quantization_config": content}, "here") == one
    written = InMemory(dict(one.write("a.weight", matrix, weight.dtype)))
    assert {*one.packed_names(written)} == {"a.weight"}
    ((name, found),) = one.tensors(written, weight.device)
    assert name == "a.weight"
    assert torch.equal(found.dequantize(torch.float32), matrix.dequantize(torch.float32))  # type: ignore[union-attr]


class InMemory:
    path = Path("memory")

    def __init__(self, content: dict[str, Tensor]) -> None:
        self.content = content

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.content.items()

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: (tensor.shape, tensor.dtype) for name, tensor in self.content.items()}


@pytest.mark.parametrize(("quantization", "message"), REFUSED, ids=str)
def test_what_cannot_be_read_is_refused_in_one_line(quantization: Any, message: str) -> None:
    config = {"model_type": "llama", "quantization_config": quantization}
    with pytest.raises(InputError, match=message) as raised:
        stored_scheme(config, "here")
    assert str(raised.value).startswith("here: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": {}}], ids=str)
def test_floats_are_in_no_scheme(config: dict[str, Any]) -> None:
    assert stored_scheme(config, "here") is None


def test_old_files_of_bitsandbytes_do_not_name_the_method() -> None:
    found = stored_scheme({"quantization_config": {"load_in_4bit": True}}, "here")
    assert found == quantizers()["bnb.fp4"]


def test_any_family_may_be_in_fp8(tmp_path: Path) -> None:
    variant("llama-gqa").build(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": CONFIGS["fp8"]}))
    checkpoint = open_checkpoint(tmp_path)
    read_config(checkpoint.config)
    assert checkpoint.scheme is not None
    assert checkpoint.scheme.name == "fp8"


def test_the_help_names_all_that_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("generate", "convert"):
        assert main([command, "--help"]) == 0
        told = "".join(capsys.readouterr().out.split())
        assert not [name for name in quantizers() if name not in told]

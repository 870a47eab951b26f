"""Quantized weights on a GPU. Skipped where there is no NVIDIA GPU."""

from pathlib import Path

import pytest
import torch

from mygpt import LLM
from mygpt.checkpoint.convert import convert
from mygpt.checkpoint.open import open_checkpoint
from mygpt.families import read_config
from mygpt.loading.build import build
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.placement import Placement
from mygpt.quantize.bnb_library import bitsandbytes
from mygpt.quantize.formats.bnb import MODES
from mygpt.quantize.linear import quantizable, quantized_bytes
from mygpt.quantize.matmul import make_products
from tests.models import write_model
from tests.quantize.test_bnb import ERROR, FAMILY_SIZES, FOUR_BITS, ROUNDING, error, random_matrix

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(scope="module", params=FAMILY_SIZES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp(request.param)
    write_model(target / "float32", request.param, **FAMILY_SIZES[request.param])
    convert(open_checkpoint(target / "float32"), target / "bfloat16", dtype=torch.bfloat16)
    return target / "bfloat16"


@pytest.mark.parametrize("mode", FOUR_BITS)
def test_four_bits_are_bitsandbytes_own(mode: str) -> None:
    weight = random_matrix(64, 128).cuda()
    functional = bitsandbytes().functional
    rows, state = functional.quantize_4bit(
        weight, quant_type=MODES[mode].quant_type, compress_statistics=MODES[mode].nested
    )
    ours = MODES[mode].quantize(weight)
    assert torch.equal(ours.rows.flatten(), rows.flatten())
    assert torch.equal(ours.absmax.flatten(), state.absmax)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("columns", [128, 40])
def test_products(mode: str, columns: int) -> None:
    parts = [MODES[mode].quantize(random_matrix(rows, columns).cuda()) for rows in (32, 64, 8)]
    for rows in (1, 3, 100):
        x = torch.randn(rows, columns, device="cuda").bfloat16()
        y = torch.cat([product.multiply(x) for product in make_products(parts, x.dtype)], -1)
        expected = x.float() @ torch.cat([part.dequantize(torch.float32) for part in parts]).t()
        assert error(y, expected) < (0.02 if mode == "bnb.int8" else 0.006)


@pytest.mark.parametrize("mode", FOUR_BITS)
def test_a_layer_gives_what_fabrics_gives(mode: str) -> None:
    from lightning.fabric.plugins.precision.bitsandbytes import BitsandbytesPrecision

    weight = random_matrix(64, 128)
    model = torch.nn.Sequential(torch.nn.Linear(128, 64, bias=False, dtype=torch.bfloat16))
    model[0].weight.data = weight
    plugin = BitsandbytesPrecision(mode.removeprefix("bnb."), dtype=torch.bfloat16)
    theirs = plugin.convert_module(model).cuda()
    (product,) = make_products([MODES[mode].quantize(weight.cuda())], torch.bfloat16)
    x = torch.randn(5, 128, device="cuda").bfloat16()
    assert torch.equal(product.multiply(x), theirs(x))


@pytest.mark.parametrize("mode", MODES)
def test_logits_are_near_the_cpus(folder: Path, mode: str) -> None:
    ids = torch.arange(40).view(2, 20)
    cpu, gpu = (LLM.load(str(folder), quantize=mode, accelerator=a) for a in ("cpu", "cuda"))
    assert error(gpu.logits(ids), cpu.logits(ids)) < ROUNDING + (0.1 if mode == "bnb.int8" else 0.05)
    assert gpu.generate_ids([1, 2, 3], max_new_tokens=4, temperature=0.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_stored_folder_runs(folder: Path, tmp_path: Path, mode: str) -> None:
    """Quantized on the CPU, whose rounding of a tie may be another than the GPU's."""
    convert(open_checkpoint(folder), tmp_path / "out", scheme=MODES[mode])
    ids = torch.arange(40).view(2, 20)
    stored = LLM.load(str(tmp_path / "out"), accelerator="cuda")
    fresh = LLM.load(str(folder), quantize=mode, accelerator="cuda")
    assert error(stored.logits(ids), fresh.logits(ids)) < ERROR[mode]


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
        Placement(None, (torch.device("cuda"),), ("cuda",)),
        LoadOptions(precision="bf16-true", quantize=mode),
    )
    for path, layer in quantizable(meta).items():
        expected = quantized_bytes(layer, MODES[mode], torch.bfloat16, "cuda")
        assert model.get_submodule(path).weight_bytes == expected, path

"""`mygpt convert`: casts, GGUF to safetensors, quantized folders, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mygpt import LLM
from mygpt.__main__ import main
from mygpt.checkpoint.convert import convert
from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError
from mygpt.quantize.bnb_format import assemble, stored_matrices
from mygpt.quantize.formats.bnb import MODES
from tests.families.variants import variant
from tests.models import write_model
from tests.quantize.test_bnb import SIZES, error

QUESTION = "What is the capital of France?"
# Of the logits of the answer's beginning, relative to bfloat16's: so small a model feels 4 bits.
SMOLLM2_ERROR = {"bnb.nf4": 0.7, "bnb.nf4-dq": 0.7, "bnb.fp4": 0.7, "bnb.fp4-dq": 0.7, "bnb.int8": 0.1}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), "llama", **SIZES)


def load(folder: Path, **options: Any) -> LLM:
    return LLM.load(str(folder), accelerator="cpu", **options)


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", "bf16-true"])
def test_casts(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str) -> None:
    """The type has the names of `--precision` too."""
    assert main(["convert", str(llama), str(tmp_path / "out"), "--dtype", dtype]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    written = dict(open_checkpoint(tmp_path / "out").tensors())
    for name, tensor in open_checkpoint(llama).tensors():
        assert torch.equal(written[name], tensor.bfloat16())
    assert load(tmp_path / "out").tokenizer.encode("a") == load(llama).tokenizer.encode("a")


def test_gguf_to_safetensors(smollm2_gguf: Path, tmp_path: Path) -> None:
    assert main(["convert", str(smollm2_gguf), str(tmp_path / "out"), "--quantize", "bnb.int8"]) == 0
    ids = torch.arange(10)[None]
    expected = load(smollm2_gguf, quantize="bnb.int8").logits(ids)
    assert torch.equal(load(tmp_path / "out").logits(ids), expected)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_is_in_bitsandbytes_serialization(llama: Path, tmp_path: Path, mode: str) -> None:
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES[mode])
    written = load_file(tmp_path / "out" / "model.safetensors")
    found = dict(assemble(iter(written.items()), stored_matrices(written), "out"))
    quantized = 0
    for name, tensor in open_checkpoint(llama).tensors():
        if "_proj" in name:
            quantized += 1
            expected = MODES[mode].quantize(tensor.bfloat16())
            assert torch.equal(found[name].rows, expected.rows)
            assert torch.equal(found[name].absmax, expected.absmax)
        else:
            assert torch.equal(found[name], tensor.bfloat16())
    assert quantized == 14
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "bitsandbytes"
    assert {config.get("dtype"), config.get("torch_dtype")} <= {"bfloat16", None}


def test_shards(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix and its scales may lie in different files."""
    convert(open_checkpoint(llama), tmp_path / "whole", scheme=MODES["bnb.nf4-dq"])
    monkeypatch.setattr("mygpt.checkpoint.write._SHARD_BYTES", 2000)
    convert(open_checkpoint(llama), tmp_path / "shards", scheme=MODES["bnb.nf4-dq"])
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 10
    ids = torch.arange(10)[None]
    assert torch.equal(load(tmp_path / "shards").logits(ids), load(tmp_path / "whole").logits(ids))


def test_a_mixture_with_its_experts_one_by_one(tmp_path: Path) -> None:
    """The router stays as it is, and is named among what transformers must not quantize either."""
    model = variant("qwen2-moe").build(tmp_path / "model")
    names = set(open_checkpoint(tmp_path / "model").shapes())
    assert any(".experts.0." in name for name in names), "transformers saves them so"
    convert(open_checkpoint(tmp_path / "model"), tmp_path / "out", scheme=MODES["bnb.nf4"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    skipped = config["quantization_config"]["llm_int8_skip_modules"]
    assert {"lm_head", "model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate"} <= {*skipped}
    ids = torch.arange(20)[None]
    stored, fresh = load(tmp_path / "out"), load(tmp_path / "model", quantize="bnb.nf4")
    assert torch.equal(stored.logits(ids), fresh.logits(ids))
    assert model is not None


@pytest.mark.parametrize("mode", ["bnb.nf4", "bnb.int8"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpt2", r"h\.0\.attn\.c_attn\.weight is stored transposed"),
        ("gpt-oss", r"mlp\.experts\.\w+_proj holds 6 matrices"),
    ],
)
def test_matrices_whose_files_have_another_form(tmp_path: Path, name: str, why: str, mode: str) -> None:
    variant(name).build(tmp_path / "model")
    with pytest.raises(InputError, match=rf"{why}.*; run the original with --quantize instead"):
        convert(open_checkpoint(tmp_path / "model"), tmp_path / "out", scheme=MODES[mode])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_fused_matrices_whose_blocks_run_over_rows(tmp_path: Path) -> None:
    variant("phi3").build(tmp_path / "model")
    with pytest.raises(InputError, match=r"proj\.weight of 48 columns, no multiple of 64"):
        convert(open_checkpoint(tmp_path / "model"), tmp_path / "out", scheme=MODES["bnb.nf4"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "int8"], "--dtype must be one of float32, float16, bfloat16, it is 'int8'"),
        (["--quantize", "q4"], "--quantize must be one of bnb.nf4"),
    ],
)
def test_bad_options(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["convert", str(llama), str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(llama), str(tmp_path)]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err


def test_what_is_quantized_is_not_quantized_again(llama: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(llama), tmp_path / "out", scheme=MODES["bnb.nf4"])
    with pytest.raises(InputError, match="stored quantized already"):
        convert(open_checkpoint(tmp_path / "out"), tmp_path / "again", scheme=MODES["bnb.int8"])
    convert(open_checkpoint(tmp_path / "out"), tmp_path / "copy")
    ids = torch.arange(10)[None]
    assert torch.equal(load(tmp_path / "copy").logits(ids), load(tmp_path / "out").logits(ids))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", **SIZES)
    os.truncate(tmp_path / "model" / "model.safetensors", 9000)
    with pytest.raises(InputError, match="truncated"):
        convert(open_checkpoint(tmp_path / "model"), tmp_path / "out", scheme=MODES["bnb.nf4"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2") / "bf16"
    convert(open_checkpoint(smollm2_gguf), folder, dtype=torch.bfloat16)
    return folder


@pytest.mark.parametrize(
    "mode", [pytest.param(m, marks=() if m == "bnb.nf4" else pytest.mark.full) for m in MODES]
)
def test_smollm2(smollm2: Path, tmp_path: Path, mode: str) -> None:
    """Near bfloat16; stored, exactly what it is quantized on the fly; and France has its capital."""
    plain, fresh = load(smollm2, precision="bf16-true"), load(smollm2, quantize=mode)
    ids = torch.tensor([plain.encode(QUESTION)])
    logits = fresh.logits(ids)
    assert error(logits, plain.logits(ids)) < SMOLLM2_ERROR[mode]
    convert(open_checkpoint(smollm2), tmp_path / "out", scheme=MODES[mode])
    assert torch.equal(load(tmp_path / "out").logits(ids), logits)
    assert "Paris" in fresh.generate(QUESTION, max_new_tokens=10, temperature=0.0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_unquantized_model_is_never_held(smollm2: Path, tmp_path: Path) -> None:
    """Loading takes no more memory than what stays, and a layer or two; the head of SmolLM2 is most of what stays."""
    code = f"""
import torch
def peak():  # not ru_maxrss, which a process has of its parent
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
from mygpt import LLM
from mygpt.quantize.bnb_library import cpu_library
cpu_library()
before = peak()
llm = LLM.load({str(smollm2)!r}, quantize="bnb.nf4", accelerator="cpu")
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    whole = (smollm2 / "model.safetensors").stat().st_size  # 269 MB
    kept = 57e6 + 60e6  # the embedding in bfloat16, linear layers in 4 bits
    assert int(done.stdout) < kept + 90e6 < whole

"""Bad input of every kind: exit code 2, one line on standard error that names the thing, nothing left behind."""

import json
import os
import pickle
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from mygpt.__main__ import main
from tests.models import edit_json, write_model, write_tokenizer

TOKEN = "hf_s3cretS3cretS3cretS3cret"
NO_GPU = "cuda" if not torch.cuda.is_available() else "mps"  # what this machine has not
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole checkpoint of each family."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("llama", "gpt_neox", "falcon"):
        write_model(folder / family, family)
    return folder


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """A llama checkpoint to break."""
    return shutil.copytree(models / "llama", tmp_path / "model")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory and caches of the test's own, no network; all of it as empty after as before."""
    folders = [tmp_path / name for name in ("work", "hub", "mygpt")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folders[1]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("MYGPT_CACHE", str(folders[2]))
    monkeypatch.delenv("MYGPT_DEBUG", raising=False)

    def connect(*address: Any) -> None:
        pytest.fail(f"contacted {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield
    assert [path for folder in folders for path in folder.rglob("*")] == []


@pytest.fixture
def refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> Callable[..., None]:
    """Run the command line and see that it refuses as the contract has it, with `says` in its one line."""

    def run(arguments: list[str], *says: str) -> None:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        capfd.readouterr()
        code = main(arguments)
        out, err = capfd.readouterr()
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        for text in says:
            assert text in err
        for python in ("Traceback", "<class", "Error:", "Errno", "Parser key"):
            assert python not in err
        assert TOKEN not in err
        assert recwarn.list == []  # Python would print them
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    return run


def generate(model: Path | str, options: str = "") -> list[str]:
    return ["generate", str(model), "--prompt", "Hi", "--max_new_tokens", "2", *shlex.split(options)]


# Paths and repositories


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        ("./nowhere", "no such folder or file: './nowhere'"),
        ("/nowhere/at/all", "/nowhere/at/all"),
        ("nowhere.gguf", "nowhere.gguf"),
        ("owner/missing", "owner/missing is not complete on this machine"),
        ("a/b/c", "'a/b/c' is neither a local path nor a Hub repository"),
        ("https://huggingface.co/a/b.c-d/tree/main", "(owner/name); did you mean a/b.c-d?\n"),
        ("hf.co/a/b", "(owner/name); did you mean a/b?\n"),
        ("llama3:8b", "(owner/name); did you mean llama-3.1-8b?\n"),
        ("", "neither a local path nor a Hub repository"),
        ("x" * 5000, "neither a local path nor a Hub repository"),
    ],
    ids=lambda value: value[:20] or "empty",
)
def test_checkpoints_that_are_not_there(refused: Callable[..., None], checkpoint: str, says: str) -> None:
    refused(generate(checkpoint), says)


# config.json

CONFIGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no hidden_size": ({"hidden_size": None}, ("'hidden_size' is missing",)),
    "hidden_size is text": ({"hidden_size": "48"}, ("'hidden_size'", "whole number", "'48'")),
    "hidden_size negative": ({"hidden_size": -48}, ("'hidden_size'", "-48")),
    "hidden_size a fraction": ({"hidden_size": 48.5}, ("'hidden_size'", "48.5")),
    "hidden_size infinite": ({"hidden_size": float("inf")}, ("'hidden_size'", "inf")),
    "hidden_size true": ({"hidden_size": True}, ("'hidden_size'", "True")),
    "heads do not divide": (
        {"num_attention_heads": 7, "head_dim": None},
        ("'hidden_size' must be a multiple of 'num_attention_heads' (7)", "48"),
    ),
    "key-value heads do not divide": (
        {"num_key_value_heads": 4},
        ("'num_key_value_heads' must be a divisor of 'num_attention_heads' (6)", "4"),
    ),
    "no layers": ({"num_hidden_layers": 0}, ("'num_hidden_layers'", "0")),
    "context of null layers": ({"max_position_embeddings": "long"}, ("'max_position_embeddings'", "'long'")),
    "epsilon is text": ({"rms_norm_eps": "tiny"}, ("'rms_norm_eps'", "'tiny'")),
    "bias is text": ({"attention_bias": "no"}, ("'attention_bias'", "'no'")),
    "no model_type": (
        {"model_type": None},
        ("model_type None is not supported", "supported are "),
    ),
    "unknown model_type": (
        {"model_type": "mamba"},
        ("'mamba' is not supported", "supported are "),
    ),
    "model_type is a list": ({"model_type": ["llama"]}, ("['llama'] is not supported",)),
    "unknown activation": ({"hidden_act": "quick_gelu"}, ("'hidden_act'", "silu", "'quick_gelu'")),
    "activation is an object": ({"hidden_act": {}}, ("'hidden_act'", "{}")),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, ("'gptq'", "unquantized")),
    "unknown rope type": (
        {"rope_parameters": {**ROPE, "rope_type": "spiral"}},
        ("'spiral'", "llama3, yarn, longrope"),
    ),
    "rope type is a list": ({"rope_parameters": {**ROPE, "rope_type": []}}, ("rope type [] is not",)),
    "unknown rope key": ({"rope_parameters": {**ROPE, "mrope_section": [1]}}, ("'mrope_section'",)),
    "rope is a list": ({"rope_parameters": [1]}, ("'rope_parameters' must be an object",)),
    "rope without factor": (
        {"rope_parameters": None, "rope_scaling": {"type": "linear"}},
        ("'rope_scaling'", "'factor' is missing"),
    ),
    "yarn's mscale is text": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": "a", "mscale_all_dim": 1}},
        ("'mscale'", "number"),
    ),
    "odd rotary dimensions": ({"head_dim": 9}, ("9 rotary dimensions", "even")),
    "65,536 layers": ({"num_hidden_layers": 65_536}, ("'num_hidden_layers' must be at most 1024", "65536")),
    "1,000 layers": ({"num_hidden_layers": 1000}, ("'num_hidden_layers' 1000", "those of 2 layers")),
    "2^31 heads": ({"num_attention_heads": 2**31}, ("'num_attention_heads' must be at most 4096",)),
    "4,000 heads": (
        {"num_attention_heads": 4000, "num_key_value_heads": 4000},
        ("'num_key_value_heads' 4000", "do not fit model.layers.0.self_attn.k_proj", "(16, 48)"),
    ),
    "a wide head": ({"head_dim": 65_536}, ("'head_dim' 65536", "do not fit")),
    "a large vocabulary": (
        {"vocab_size": 4_000_000},
        (
            "'vocab_size' 4000000 and 'hidden_size' 48 do not fit model.embed_tokens.weight of shape (320, 48)",
        ),
    ),
    "another width": ({"intermediate_size": 4_000_000}, ("'intermediate_size' 4000000", "do not fit")),
    "sizes past 2^63": ({"hidden_size": 2**63}, ("'hidden_size' must be at most",)),
    "eos is text": ({"eos_token_id": "</s>"}, ("'eos_token_id'", "'</s>'")),
}


@pytest.mark.parametrize(("changes", "says"), CONFIGS.values(), ids=CONFIGS)
def test_configs(
    refused: Callable[..., None], model: Path, changes: dict[str, Any], says: tuple[str, ...]
) -> None:
    edit_json(model / "config.json", **changes)
    refused(generate(model), str(model), *says)


def test_falcon_with_alibi(refused: Callable[..., None], models: Path) -> None:
    edit_json(models / "falcon" / "config.json", alibi=True)
    refused(generate(models / "falcon"), "'alibi'", "only rotary")


# Files

Break = Callable[[Path], Any]


def tensors(model: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a checkpoint."""
    weights = load_file(model / WEIGHTS)
    change(weights)
    (model / WEIGHTS).unlink()  # the mapping of the old file lives on
    save_file(weights, model / WEIGHTS)


def shard(model: Path, shard: str) -> None:
    """An index over the weights that says that its last tensor lies in `shard`."""
    names = list(load_file(model / WEIGHTS))
    (model / WEIGHTS).rename(model / "model-1.safetensors")
    weight_map = {**dict.fromkeys(names, "model-1.safetensors"), names[-1]: shard}
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def cut(path: Path, part: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


def replace(old: str, new: str, text: str) -> Break:
    """A folder whose file `old` is gone and whose file `new` holds `text`."""

    def change(model: Path) -> None:
        (model / old).unlink()
        (model / new).write_text(text)

    return change


def template(text: str) -> Break:
    return lambda model: (model / "chat_template.jinja").write_text(text)


Q = "model.layers.0.self_attn.q_proj.weight"
Q1 = "model.layers.1.self_attn.q_proj.weight"
FILES: dict[str, tuple[Break, tuple[str, ...]]] = {
    "empty folder": (lambda model: [path.unlink() for path in model.iterdir()], ("no config.json",)),
    "no config.json": (lambda model: (model / "config.json").unlink(), ("no config.json",)),
    "config.json empty": (replace("config.json", "config.json", ""), ("config.json", "not valid JSON")),
    "config.json not JSON": (replace("config.json", "config.json", "{'a': 1}"), ("not valid JSON",)),
    "config.json a list": (replace("config.json", "config.json", "[1]"), ("config.json", "JSON object")),
    "config.json too deep": (replace("config.json", "config.json", "[" * 10**5), ("config.json", "JSON")),
    "config.json in Latin-1": (
        lambda model: (model / "config.json").write_bytes(b'{"a": "\xe9"}'),
        ("config.json", "not valid JSON"),
    ),
    "generation_config.json a list": (
        replace(WEIGHTS, "generation_config.json", "[]"),
        ("generation_config",),
    ),
    "eos ids in generation_config.json": (
        lambda model: edit_json(model / "generation_config.json", eos_token_id=["a"]),
        ("'eos_token_id'", "['a']"),
    ),
    "no weights": (lambda model: (model / WEIGHTS).unlink(), ("has no weights", WEIGHTS)),
    "safetensors truncated": (lambda model: cut(model / WEIGHTS, 0.7), (WEIGHTS, "truncated or corrupt")),
    "safetensors cut in the header": (lambda model: cut(model / WEIGHTS, 0.001), ("truncated or corrupt",)),
    "safetensors empty": (lambda model: cut(model / WEIGHTS, 0), (WEIGHTS, "truncated or corrupt")),
    "safetensors garbage": (
        lambda model: (model / WEIGHTS).write_bytes(b"\xff" * 4096),
        (WEIGHTS, "download it again"),
    ),
    "safetensors an LFS pointer": (
        replace(WEIGHTS, WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        (WEIGHTS, "download it again"),
    ),
    "shard missing": (lambda model: shard(model, "model-2.safetensors"), ("lacks the shards model-2",)),
    "shard lacks its tensor": (
        lambda model: (shard(model, "b.safetensors"), save_file({}, model / "b.safetensors")),
        ("b.safetensors lacks 1 tensors",),
    ),
    "index escapes the folder": (lambda model: shard(model, "../x.safetensors"), ("../x", "do not trust")),
    "index names no text": (lambda model: shard(model, 5), ("names the shard 5",)),  # type: ignore[arg-type]
    "index not JSON": (replace(WEIGHTS, INDEX, "{"), (INDEX, "not valid JSON")),
    "index without a map": (replace(WEIGHTS, INDEX, "{}"), (INDEX, "weight_map")),
    "index's map a list": (replace(WEIGHTS, INDEX, '{"weight_map": []}'), (INDEX, "weight_map")),
    "tensor missing": (
        lambda model: tensors(model, lambda weights: weights.pop(Q)),
        ("1 missing: layers.0.attention.q.weight",),
    ),
    "tensor unexpected": (
        lambda model: tensors(model, lambda weights: weights.update(surplus=torch.ones(1))),
        ("1 unexpected: surplus",),
    ),
    "tensor of another shape": (
        lambda model: tensors(model, lambda weights: weights.update({Q1: torch.ones(40, 48)})),
        ("1 wrongly shaped: layers.1.attention.q.weight (40, 48) in place of (48, 48)",),
    ),
    "tensors of another shape than the config's": (
        lambda model: tensors(model, lambda weights: weights.update({Q: torch.ones(40, 48)})),
        ("'num_attention_heads' 6 and 'head_dim' 8 and 'hidden_size' 48 do not fit", Q, "(40, 48)"),
    ),
    "tensor of integers": (
        lambda model: tensors(model, lambda weights: weights.update({Q: torch.ones(48, 48).char()})),
        ("not of floating point: layers.0.attention.q.weight torch.int8",),
    ),
    "tensor of complex numbers": (
        lambda model: tensors(model, lambda weights: weights.update({Q: torch.ones(48, 48).cfloat()})),
        (WEIGHTS, f"{Q} is stored as C64, which is not supported"),
    ),
    "one layer too many": (
        lambda model: edit_json(model / "config.json", num_hidden_layers=3),
        ("'num_hidden_layers' 3, but the weights are those of 2 layers",),
    ),
    ".bin garbage": (replace(WEIGHTS, "pytorch_model.bin", "garbage"), ("pytorch_model.bin", "corrupt")),
    ".bin empty": (replace(WEIGHTS, "pytorch_model.bin", ""), ("pytorch_model.bin", "corrupt")),
    "tokenizer.json not JSON": (
        replace("tokenizer.json", "tokenizer.json", "{"),
        ("tokenizer.json", "valid"),
    ),
    "tokenizer.json truncated": (lambda model: cut(model / "tokenizer.json", 0.5), ("tokenizer.json",)),
    "tokenizer.json of something else": (
        replace("tokenizer.json", "tokenizer.json", '{"a": 1}'),
        ("tokenizer.json", "not a valid tokenizer"),
    ),
    "tokenizer_config.json a list": (
        replace("tokenizer_config.json", "tokenizer_config.json", "[]"),
        ("tokenizer_config.json",),
    ),
    "extra tokens a number": (
        lambda model: edit_json(model / "tokenizer_config.json", extra_special_tokens=5),
        ("tokens", "download"),
    ),
    "no tokenizer": (
        lambda model: [path.unlink() for path in model.glob("tokenizer*")],
        ("no tokenizer", "tokenizer.json"),
    ),
    "no tokenizer.json": (lambda model: (model / "tokenizer.json").unlink(), ("no tokenizer in",)),
    "tokenizer of a larger model": (
        lambda model: (
            edit_json(model / "config.json", vocab_size=50),
            tensors(
                model,
                lambda weights: weights.update(
                    {key: w[:50].clone() for key, w in weights.items() if len(w) == 320}
                ),
            ),
        ),
        ("token id", "model's vocabulary of 50"),
    ),
    "template's syntax": (template("{% if %}"), ("chat template is not valid Jinja",)),
    "template refuses": (template("{{ raise_exception('only\ntwo roles') }}"), ("refuses", "only two roles")),
    "template leaves the sandbox": (
        template("{{ messages.__class__.__mro__[1].__subclasses__() }}"),
        ("chat template failed", "unsafe"),
    ),
    "template divides by zero": (template("{{ 1 / 0 }}"), ("chat template failed", "division by zero")),
    "template without end": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        ("chat_template.jinja: the chat template takes too much time", "--prompt_style"),
    ),
    "tokenizer panics": (
        lambda model: edit_json(model / "tokenizer.json", pre_tokenizer={"type": "FixedLength", "length": 0}),
        ("tokenizer.json is not a valid tokenizer", "download it again"),
    ),
    "tokenizer a pipe": (
        lambda model: ((model / "tokenizer.json").unlink(), os.mkfifo(model / "tokenizer.json")),
        ("tokenizer.json is no regular file",),
    ),
    "template a device": (
        lambda model: (model / "chat_template.jinja").symlink_to("/dev/zero"),
        ("chat_template.jinja is no regular file",),
    ),
    "template a number": (
        lambda model: edit_json(model / "tokenizer_config.json", chat_template=5),
        ("chat_template",),
    ),
}


@pytest.mark.parametrize(("change", "says"), FILES.values(), ids=FILES)
def test_files(refused: Callable[..., None], model: Path, change: Break, says: tuple[str, ...]) -> None:
    change(model)
    refused(generate(model), *says)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value.weight"),
        ("falcon", "transformer.h.1.self_attention.query_key_value.weight"),
    ],
)
def test_fused_tensors_that_cannot_be_split(
    refused: Callable[..., None], models: Path, tmp_path: Path, family: str, name: str
) -> None:
    model = shutil.copytree(models / family, tmp_path / "model")
    edit_json(model / "config.json", alibi=None)
    tensors(model, lambda weights: weights.update({name: torch.ones(50, 48)}))
    refused(generate(model), name, "(50, 48)")


class _Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("old", [True, False], ids=["plain pickle", "torch.save"])
def test_code_in_a_bin_file_does_not_run(
    refused: Callable[..., None], model: Path, tmp_path: Path, old: bool
) -> None:
    marker = tmp_path / "it ran"
    state = {**load_file(model / WEIGHTS), "payload": _Payload(marker)}
    (model / WEIGHTS).unlink()
    torch.save(state, model / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert marker.exists()  # the trap works
    marker.unlink()
    refused(generate(model), "pytorch_model.bin", "safetensors")
    assert not marker.exists()


def test_a_pickle_that_torch_did_not_write_does_not_run(
    refused: Callable[..., None], model: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "it ran"
    (model / WEIGHTS).unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload(marker)))
    refused(generate(model), "pytorch_model.bin")
    assert not marker.exists()


# GGUF


def write_gguf(path: Path, architecture: str = "llama", **numbers: int) -> None:
    """The header of a llama model and its embedding, no more."""
    writer = gguf.GGUFWriter(path, architecture)
    sizes = {"embedding_length": 32, "block_count": 1, "feed_forward_length": 32, "context_length": 32}
    for key, value in {**sizes, "attention.head_count": 4, **numbers}.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tensor("token_embd.weight", np.ones((300, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GGUFS: dict[str, tuple[Break, tuple[str, ...]]] = {
    "empty": (lambda path: path.write_bytes(b""), ()),
    "wrong magic": (lambda path: path.write_bytes(b"GGML" + path.read_bytes()[4:]), ("GGUF",)),
    "future version": (
        lambda path: path.write_bytes(b"GGUF\x09\0\0\0" + path.read_bytes()[8:]),
        ("version 9",),
    ),
    "cut in the weights": (lambda path: cut(path, 0.8), ("truncated",)),
    "cut in the metadata": (lambda path: path.write_bytes(path.read_bytes()[:100]), ("truncated",)),
    "other architecture": (lambda path: write_gguf(path, "mamba"), ("'mamba'", "only 'llama'")),
    "tensors missing": (lambda path: None, ("lacks", "download it again")),
    "experts": (lambda path: write_gguf(path, expert_count=8), ("mixtures of experts",)),
    "size zero": (lambda path: write_gguf(path, embedding_length=0), ("llama.embedding_length",)),
}


@pytest.mark.parametrize(("change", "says"), GGUFS.values(), ids=GGUFS)
def test_gguf_files(
    refused: Callable[..., None], tmp_path: Path, change: Break, says: tuple[str, ...]
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    change(path)
    refused(generate(path), str(path), *says)


def test_a_folder_of_gguf_files(refused: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "a.gguf")
    refused(generate(tmp_path / "model"), "pass the file itself", "a.gguf")


def test_a_file_of_weights(refused: Callable[..., None], model: Path) -> None:
    refused(generate(model / WEIGHTS), WEIGHTS, "pass the folder")


# Options

OPTIONS: dict[str, tuple[str, ...]] = {
    "--temperature -1": ("--temperature must be 0 or above, it is -1",),
    "--temperature nan": ("--temperature must be a number, it is 'nan'",),
    "--temperature inf": ("--temperature must be a number, it is 'inf'",),
    "--temperature 1e-320": ("--temperature is out of range, it is 1e-320",),
    f"--temperature 1{'0' * 40}": ("--temperature is out of range",),
    "--repetition_penalty 1e300": ("--repetition_penalty is out of range",),
    f"--top_k {2**63}": ("--top_k is out of range",),
    f"--top_k {'9' * 5000}": ("--top_k is out of range: it has thousands of digits",),
    "--temperature abc": ("--temperature must be a number, it is 'abc'",),
    "--temperature": ("--temperature needs a value",),
    "--top_p 0": ("--top_p must be above 0 and at most 1",),
    "--top_p 2": ("--top_p must be above 0 and at most 1",),
    "--top_k -1": ("--top_k must be 0 (all tokens) or above",),
    "--top_k 1.5": ("--top_k must be a whole number, it is '1.5'",),
    "--min_p 2": ("--min_p must be between 0 and 1",),
    "--repetition_penalty 0": ("--repetition_penalty must be above 0",),
    "--max_new_tokens 0": ("--max_new_tokens must be 1 or above",),
    "--num_samples 0": ("--num_samples must be between 1 and 100000, it is 0",),
    "--batch_size 0": ("--batch_size must be 1 or above",),
    "--seed -1": ("--seed must be between 0 and",),
    "--seed 1.5": ("--seed must be a whole number, it is '1.5'",),
    f"--seed {2**63}": ("--seed must be between 0 and",),
    "--precision 8-bit": ("--precision must be one of 32-true, 16-true, bf16-true", "'8-bit'"),
    "--accelerator tpu": ("--accelerator must be one of auto, cpu, gpu, cuda, mps", "'tpu'"),
    f"--accelerator {NO_GPU}": (f"--accelerator {NO_GPU}: this machine", "try cpu"),
    "--quantize foo": ("--quantize must be one of bnb.nf4", "'foo'"),
    "--devices 0": ("--devices must be a number from 1 to 999", "'0'"),
    "--devices foo": ("'foo' is no device",),
    "--devices cuda:99": ("--devices: there is no cuda:99 here, this machine has",),
    "--num_nodes 0": ("--num_nodes must be between 1 and 1000, it is 0",),
    "--strategy spiral": ("--strategy must be one of", "'spiral'"),
    "--cpu_offload true": ("--cpu_offload goes with --strategy fsdp",),
    # 6 heads; nothing is started
    "--strategy tensor --devices 5 --accelerator cpu": (
        "cannot divide heads 6",
        "device counts that do are 1, 2",
    ),
    "--strategy tensor --devices cpu,cpu": ("only layers in turn can be put on a list",),
    "--strategy sequential --num_nodes 2": ("layers in turn stay on one machine",),
    "--stop '[\"\"]'": ("--stop must be", "not empty"),
    "--stop ''": ("--stop must be", "not empty"),
    "--stop '[1]'": ("--stop must be a text or a list of texts, it holds 1",),
    "--stop '[\"#\"'": ("""--stop '["#"' is not a JSON list""",),
    "--stop \"['#']\"": ("is not a JSON list",),
    "--json=maybe": ("--json must be true or false, it is 'maybe'",),
    "--raw_prompt=5": ("--raw_prompt must be true or false",),
    "--compile true --strategy fsdp": ("--compile does not work with --strategy fsdp",),
    "--compile=7": ("--compile must be true or false",),
    "--revision main": ("--revision is for Hub repositories", "leave it out"),
    "--prompt_style alpaca": ("'alpaca'", "template, raw, stablelm, redpajama, plain"),
    "--sys_prompt x --raw_prompt true": ("--sys_prompt cannot be used", "drop --raw_prompt"),
    "--prompts rows.jsonl": ("--prompt and --prompts", "give one"),
    "--think true": ("--think", "no switch"),
    """--chat_template_kwargs '{"mood": 1}'""": ("--chat_template_kwargs", "no variable 'mood'"),
    "--chat_template_kwargs 5": ("--chat_template_kwargs must be a JSON object",),
    "--config nowhere.yaml": ("--config", "nowhere.yaml"),
    "--foo 1": ("mygpt generate has no option --foo; see 'mygpt generate --help'",),
    "-x 1": ("mygpt generate has no option -x; see",),
    "-temp 1": ("mygpt generate has no option -temp; did you mean --temperature?",),
    "--temprature 0": ("mygpt generate has no option --temprature; did you mean --temperature?\n",),
    "--max-new-token=0": ("--max_new_tokens must be 1 or above",),  # the first letters are enough
    "-temperature 0": ("no option -temperature; did you mean --temperature?",),
    "--prom x": ("--prom can be --prompt or --prompts or --prompt_style: write it out",),
    "--quantize nf4": ("it is 'nf4'; did you mean bnb.nf4?\n",),
    "--strategy sequental": ("did you mean sequential?",),
    "another": ("the prompt is given twice, as 'another' and with --prompt",),
    "--json maybe": ("the prompt is given twice, as 'maybe' and with --prompt",),
    "--top_p=": ("--top_p must be a number, it is ''; see",),
    "-n 5": ("no option -n; did you mean --max_new_tokens?\n",),
    "--max-tokens 5": ("did you mean --max_new_tokens?\n",),
    "--ctx-size 5": ("did you mean --context_length?\n",),
    "--dtype bf16": ("did you mean --precision?\n",),
    "--model x": ("no option --model; the model has no name before it: mygpt generate MODEL\n",),
    "another surplus": ("there is no place for 'surplus'",),
    "--prompt -x": ("--prompt needs a value; one that begins with a dash is written --prompt=VALUE",),
    "--prompt --max-new-tokens": ("--prompt needs a value",),
    "--config": ("--config needs a value",),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(refused: Callable[..., None], models: Path, options: str) -> None:
    refused(generate(models / "llama", options), *OPTIONS[options])


def test_prompts_that_cannot_be(refused: Callable[..., None], models: Path) -> None:
    llama, raw = str(models / "llama"), ["--raw_prompt", "true"]
    refused(["generate", llama, "--prompt", "", *raw], "the prompt is empty")
    refused(["generate", llama, "--prompt", "x" * 128, *raw], "prompt of 128 tokens", "context of 128 tokens")
    refused(["generate", llama, "--prompt", "\udcff", *raw], "UTF-8")


def test_a_prompt_that_is_too_long_among_others(
    refused: Callable[..., None], models: Path, tmp_path: Path
) -> None:
    """It is told before the first answer, whatever its batch."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("a", "b", "x" * 200)))
    refused(
        ["generate", str(models / "llama"), "--prompts", str(rows), "--batch_size", "1"],
        "rows.jsonl, line 3: the prompt of 221 tokens does not fit the model's context of 128 tokens",
    )


ROWS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("holds no prompts",)),
    "blank lines": (b"\n \n", ("holds no prompts",)),
    "not JSON": (b'{"prompt": "a"}\nplain text\n', ("line 2: not JSON", "each line holds one object")),
    "a list of rows": (b'[\n{"prompt": "a"}\n]\n', ("line 1: not JSON", "each line holds one object")),
    "not UTF-8": (b'{"prompt": "\xe9"}\n', ("cannot be read",)),
    "not an object": (b'["a"]\n', ("line 1", '{"prompt": "..."}')),
    "too deep": (b"[" * 10**5, ("line 1: not JSON",)),
    "other keys": (b'{"text": "a"}\n', ("line 1", '{"prompt": "..."}')),
    "unknown keys": (
        b'{"prompt": "a", "temprature": 1}\n',
        ("line 1", "'temprature'; did you mean temperature?\n"),
    ),
    "keys with dashes": (b'{"prompt": "a", "top-k": 1}\n', ("'top-k'; did you mean top_k?\n",)),
    "keys like no other": (
        b'{"prompt": "a", "foo": 1}\n',
        ("no key 'foo'; there are prompt, messages, id,",),
    ),
    "an option that the model has not": (
        b'{"prompt": "a", "think": true}\n',
        ("line 1: --think:", "no switch"),
    ),
    "prompt a number": (b'{"prompt": 5}\n', ("line 1", '{"prompt": "..."}')),
    "both": (b'{"prompt": "a", "messages": []}\n', ("line 1", '{"messages": [...]}')),
    "messages a text": (b'{"messages": "a"}\n', ("line 1", '{"messages": [...]}')),
    "messages empty": (b'{"messages": []}\n', ("line 1:", "non-empty list of messages")),
    "message without a role": (b'{"messages": [{"content": "a"}]}\n', ("line 1: message 1 is malformed",)),
    "message a text": (b'{"messages": ["a"]}\n', ("message 1 is malformed",)),
}


@pytest.mark.parametrize(("content", "says"), ROWS.values(), ids=ROWS)
def test_prompt_files(
    refused: Callable[..., None], models: Path, tmp_path: Path, content: bytes, says: tuple[str, ...]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(content)
    refused(["generate", str(models / "llama"), "--prompts", str(rows)], *says)


def test_prompt_files_that_are_none(refused: Callable[..., None], models: Path, tmp_path: Path) -> None:
    for path in ("nowhere.jsonl", str(tmp_path)):
        refused(["generate", str(models / "llama"), "--prompts", path], f"--prompts {path}: cannot be read")


YAMLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown key": ("temprature: 0", ("'temprature'; did you mean temperature?",)),
    "a key like no other": ("foo: 0", ("no option 'foo'; see 'mygpt generate --help'",)),
    "stop numbers": ("stop: [1]", ("--stop must be",)),
    "not YAML": ("a: [1\nb: }", ("options.yaml must be a YAML file",)),
    "a number": ("42", ("options.yaml must be a YAML file", "42")),
    "empty": ("", ("options.yaml must be a YAML file", "(it is empty)")),
    "wrong type": ("temperature: hot", ("--temperature must be a number, it is 'hot'",)),
    "out of range": ("top_p: 7", ("--top_p must be",)),
    "a number as the prompt": ("prompt: 123", ("--prompt must be a text", "quotes")),
    "an alias that holds itself": ("stop: &a [*a]", ("options.yaml", "aliases", "write the value out")),
    "an alias bomb": (
        "a0: &a0 [x, x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}, *a{n}]\n" for n in range(99)),
        ("options.yaml", "aliases"),
    ),
    "5,000 digits": (f"seed: {'9' * 5000}", ("options.yaml", "4300 digits")),
    "deep": (f"stop: {'[' * 5000}", ("options.yaml", "depth")),
    "escape codes": ('"a\\e]0;x\\a": 1', (r"no option 'a\x1b]0;x\x07'",)),
    "1 MB": (f"a: {'x' * 10**6}", ("options.yaml: 1 MB are no file of options",)),
    "not UTF-8": ("sys_prompt: \udcff", ("options.yaml is not UTF-8 text",)),
    "a list as the token": (f"access_token: [{TOKEN}]", ("--access_token must be a text",)),
}


@pytest.mark.parametrize(("content", "says"), YAMLS.values(), ids=YAMLS)
def test_config_files(
    refused: Callable[..., None], models: Path, tmp_path: Path, content: str, says: tuple[str, ...]
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(content, encoding="utf-8", errors="surrogateescape")
    refused(generate(models / "llama", f"--config {file}"), *says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generat"], "there is no command 'generat'; did you mean generate?\n"),
        (["generate-pt"], "there is no command 'generate-pt'; did you mean generate_tp?\n"),
        (["--foo"], "there is no command '--foo'; the commands are chat, generate, "),
        (["help", "foo"], "there is no command 'foo'"),
        ([""], "there is no command ''"),
        (["chat", "--prompt_style", "raw"], "--prompt_style raw has no way to write a conversation"),
        (["chat", "--markdown", "true"], "--markdown true needs a terminal"),
        (["chat", "--load", "nowhere.json"], "nowhere.json: cannot be read"),
        (["chat", "--on_overflow", "panic"], "--on_overflow must be one of drop, error"),
        (["chat", "--max_new_tokens", "0"], "--max_new_tokens must be 1 or above"),
        (["chat", "./nowhere"], "no such folder or file: './nowhere'"),
        (["download"], "REPO must be given; see 'mygpt download --help'"),
        (["rm"], "NAMES must be given; see"),
        (["convert", "a", "b", "--dtype", "int8"], "--dtype must be one of float32, float16, bfloat16"),
        (["download", "list", "--revision", "main"], "download list takes no options"),
        (["download", "a/b", "c/d"], "there is no place for 'c/d'; see 'mygpt download --help'"),
        (["download", "a/b/c"], "neither a local path nor a Hub repository"),
        (["download", "owner/missing"], "owner/missing is not complete"),
        (["chat", "qwen3-06b"], "; did you mean qwen3-0.6b?\n"),
        (["generate", "a", "b", "c"], "there is no place for 'c'; see 'mygpt generate --help'"),
        (["generate", "What is a cat?"], "'What is a cat?' stands where the model should"),
        (["generate", "What is a cat?", "owner/missing"], "'What is a cat?' stands where the model should"),
        (["generate", "a b", "--prompt", "c"], "'a b' is neither a local path nor"),
        (["plan", "--device_memory", "24X"], "--device_memory must be a size such as 40GB or 24GiB"),
        (["completion"], "SHELL must be given"),
        (["completion", "tcsh"], "error: SHELL must be one of bash, zsh, fish, it is 'tcsh'"),
    ],
    ids=str,
)
def test_commands(refused: Callable[..., None], arguments: list[str], says: str) -> None:
    refused(arguments, says)


@pytest.mark.parametrize(
    "arguments",
    [
        generate("owner/gated", f"--access_token {TOKEN}"),
        generate("owner/gated", f"--access_tokn={TOKEN}"),
        generate("owner/gated", f"--access_token {TOKEN} --temperature x"),
        generate("owner/gated", f"--access_token {TOKEN} {TOKEN}"),
        ["download", "owner/gated", "--access_token", TOKEN],
    ],
    ids=["offline", "mistyped", "beside an error", "twice", "download"],
)
def test_a_token_is_never_shown(refused: Callable[..., None], arguments: list[str]) -> None:
    refused(arguments)  # looks for it


# As the shell sees it


def test_the_real_process(model: Path, tmp_path: Path) -> None:
    """Nothing that Python or a library writes behind `main`'s back."""
    cut(model / WEIGHTS, 0.7)
    command = f"{shlex.join([sys.executable, '-m', 'mygpt', *generate(model)])}; echo code $?"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "code 2\n"
    assert done.stderr.startswith(f"error: {model / WEIGHTS} is truncated or corrupt")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no sh")
@pytest.mark.parametrize(
    ("command", "closed", "code", "out", "err"),
    [
        ("generate --prompt Hi", "2>&-", 0, r".+\n", ""),
        ("generate --prompt Hi", ">&-", 0, "", r"cpu .+"),
        ("generate --prompt Hi", "<&- >&- 2>&-", 0, "", ""),
        ("generate --prompt -", "<&-", 2, "", r"error: standard input is empty: write the prompt .+\n"),
        ("generate --prompts -", "<&-", 2, "", r"error: --prompts -: the file holds no prompts\n"),
        ("chat", "<&-", 0, "", r".* /help lists the commands\n"),
        ("rm kernels", "<&-", 2, "", r"error: rm would ask .+\n|error: there is no 'kernels' .+\n"),
    ],
)
def test_closed_streams(models: Path, command: str, closed: str, code: int, out: str, err: str) -> None:
    """Python has None for them; as where they are /dev/null."""
    name, *options = command.split()
    model = [] if name == "rm" else [str(models / "llama"), "--max_new_tokens", "2"]
    line = f"{shlex.join([sys.executable, '-m', 'mygpt', name, *model, *options])} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == code, done.stderr
    assert re.fullmatch(out, done.stdout, re.DOTALL)
    assert re.fullmatch(err, done.stderr, re.DOTALL)


def test_standard_input_that_is_no_text(models: Path) -> None:
    command = [
        sys.executable,
        "-X",
        "utf8",
        "-m",
        "mygpt",
        "generate",
        str(models / "llama"),
        "--prompt",
        "-",
    ]
    done = subprocess.run(command, input=b"\xff\xfe", capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert b"UTF-8" in done.stderr


def test_a_failure_while_running_is_exit_code_1(
    models: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate\n7 GiB")

    monkeypatch.setattr("mygpt.model.gpt.GPT.allocate_cache", full)
    capfd.readouterr()
    assert main(generate(models / "llama")) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: out of memory; try")
    assert err.count("\n") == 1
    monkeypatch.setenv("MYGPT_DEBUG", "1")
    with pytest.raises(torch.OutOfMemoryError):
        main(generate(models / "llama"))


def test_the_checkpoints_of_these_tests_are_good(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else any of the above could be refused for the wrong reason."""
    model = shutil.copytree(models / "llama", tmp_path / "model")
    write_tokenizer(model)
    assert main(generate(model)) == 0
    shard(model, "model-1.safetensors")
    assert main(generate(model)) == 0
    capfd.readouterr()

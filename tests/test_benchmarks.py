"""The programs in benchmarks/ run and end in one JSON line. No test asserts a time."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mygpt.checkpoint.open import open_checkpoint

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ENVIRONMENT = {"benchmark", "machine", "versions", "commit"}

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run() -> Run:
    """Runs a program in this process, which spares the import of torch."""

    def run(name: str, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(BENCHMARKS)  # where the interpreter looks first for a script's own imports
            patch.setattr(sys, "argv", [name, *map(str, arguments)])
            runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def tiny(run: Run, smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "tiny"
    run("make_model", "tiny", folder, "--source", smollm2_gguf)
    return folder


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) >= ENVIRONMENT
    return report


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.full), 3])
def test_decode(run: Run, tiny: Path, capsys: pytest.CaptureFixture[str], batch_size: int) -> None:
    sizes = {"batch_size": batch_size, "context": 4, "new_tokens": 3, "repeats": 2, "read_gb": 0.001}
    run("decode", tiny, *(f"--{name}={size}" for name, size in sizes.items()))
    report = last_line(capsys)
    assert set(report) >= {"load_s", "ttft_s", "prefill_tokens_per_s", "peak_memory_bytes", "limit_gb_per_s"}
    assert len(report["decode_tokens_per_s_runs"]) == 2
    weights = sum(2 * shape.numel() for shape, _ in open_checkpoint(tiny).shapes().values())
    slot = 2 * 2 * (3 * 2 * 8)  # bytes x keys and values x (layers x heads x dimensions)
    assert report["bytes_per_token"] == round(weights / batch_size + slot * (4 + 3 / 2))


@pytest.mark.full
def test_decode_quantized_against_another_context(
    run: Run, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"context": 40, "against_context": 2, "new_tokens": 3, "repeats": 1, "read_gb": 0.001}
    run("decode", tiny, "--quantize", "bnb.int8", *(f"--{name}={size}" for name, size in sizes.items()))
    report = last_line(capsys)
    assert report["extra_context_bytes"] == 38 * 2 * 2 * (3 * 2 * 8)
    assert report["against_decode_tokens_per_s"] > 0
    unquantized = sum(2 * shape.numel() for shape, _ in open_checkpoint(tiny).shapes().values())
    assert report["bytes_per_token"] < unquantized


def test_first_minute(
    run: Run, smollm2_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (
        ("MYGPT_CACHE", smollm2_cache),
        ("HF_HUB_OFFLINE", 1),
        ("HF_HOME", smollm2_cache / "empty"),
    ):
        monkeypatch.setenv(name, str(value))
    run("first_minute", "--seeds", 2, "--questions", 1)
    (result,) = last_line(capsys)["results"].values()
    assert result["right"] + len(result["wrong"]) == 2


def test_samples(run: Run, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("samples", tiny, "--num_samples", 2, "--new_tokens", 3, "--repeats", 1)
    report = last_line(capsys)
    assert set(report) >= {"one_tokens_per_s", "batch_tokens_per_s", "ratio"}
    assert [[kind["new_tokens"] for kind in kinds] for kinds in report["rounds"]] == [[3, 6]]


@pytest.mark.full
def test_peers(run: Run, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"bits": 16, "context": 4, "prompt": 6, "new_tokens": 3, "batch_size": 2, "repeats": 1}
    run("peers", tiny, *(f"--{name}={size}" for name, size in sizes.items()))
    report = last_line(capsys)
    assert report["results"]["mygpt bf16"].keys() >= {
        "decode_tokens_per_s",
        "batch_tokens_per_s",
        "prefill_tokens_per_s",
    }
    assert report["ratios"] == {}


@pytest.mark.full
def test_startup(run: Run, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("startup", "--checkpoint", tiny, "--repeats", 1)
    report = last_line(capsys)
    programs = {"import_torch", "import_fabric", "help", "generate", "first_token"}
    for results in ("seconds", "ratios_to_import_torch", "ratios_to_import_fabric"):
        assert set(report[results]) == programs
    assert report["seconds"]["first_token"] <= report["seconds"]["generate"]


@pytest.mark.full
def test_chat(run: Run, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("chat", tiny, "--history", 300, "--repeats", 1, "--soak", 6)
    report = last_line(capsys)
    assert report["same_ids_as_without_reuse"]
    assert report["computed_tokens"] < 60 < 250 < report["history_tokens"]
    assert 0 <= report["first_turn_tokens"] - report["equal_computed_tokens"] <= 3
    assert report["ratio"] > 0
    assert report["equal_ratio"] > 0
    assert set(report["soak"]) >= {"growth_mb", "resident_mb", "dropped_messages"}


@pytest.mark.full
def test_quantize(run: Run, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"context": 4, "new_tokens": 3, "repeats": 1}
    options = (f"--{name}={size}" for name, size in sizes.items())
    run("quantize", tiny, "--modes", "bnb.nf4", "--perplexity", "true", *options)
    modes = last_line(capsys)["modes"]
    assert set(modes) == {"bf16", "bnb.nf4"}
    assert set(modes["bnb.nf4"]) >= {"load_s", "stored", "decode_tokens_per_s", "ratio_to_bf16", "perplexity"}


@pytest.mark.full
def test_speculate(run: Run, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("speculate", tiny, "--precision=32-true", "--new_tokens=12", "--repeats=1", "--draft_layers=1")
    report = last_line(capsys)
    assert report["ngram"]["same_ids"]
    assert report["draft_greedy"]["same_ids"]
    assert report["draft_greedy"]["accepted_draft_tokens"] > 0
    assert report["draft_sampled"]["draft_tokens"] > 0


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="measures resident memory")
def test_placement(tiny: Path) -> None:
    """In a process of its own: ranks are started as its script was."""
    command = [sys.executable, BENCHMARKS / "placement.py", tiny, "--repeats", "1", "--new_tokens", "3"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report) >= ENVIRONMENT
    for results in ("tokens_per_s", "ratios_to_one", "memory_bytes", "memory_ratios_to_one"):
        assert set(report[results]) == {"one", "sequential", "tensor"}


def test_gpu(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The program for a GPU, small and on the CPU."""
    run("gpu", "--accelerator", "cpu", "--tiny", "true", "--new_tokens", 3, "--prompt", 8, "--repeats", 1)
    report = last_line(capsys)
    assert report["correct"]["ids_equal"]
    assert set(report["speeds"]) == {"batch 1", "batch 8", "bnb.nf4"}

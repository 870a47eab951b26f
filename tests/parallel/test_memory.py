"""A rank of two holds about half of what one process does."""

import json
from pathlib import Path

import pytest

from tests.parallel.conftest import LLAMA, Start, random_model

BIG = LLAMA | {
    "vocab_size": 4096,
    "num_hidden_layers": 12,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}  # 380 MB


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, smollm2: Path, small: Path) -> list[Path]:
    return [random_model(tmp_path_factory.mktemp("memory"), BIG, smollm2), small]


def weights_memory(start: Start, folders: list[Path], command: str, *options: object) -> int:
    """The peak of the largest process, less that of the same command on next to no weights."""
    peaks = []
    for folder in folders:
        ids = ["--prompt", "1 2 3", "--raw_prompt", "true", "--max_new_tokens", 4, "--json", "true"]
        process = start(command, folder, *ids, "--precision", "bf16-true", "--accelerator", "cpu", *options)
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        peaks.append(json.loads(out)["peak_memory_bytes"])
    return peaks[0] - peaks[1]


@pytest.mark.full
def test_a_rank_holds_half(start: Start, folders: list[Path]) -> None:
    one = weights_memory(start, folders, "generate")
    rank = weights_memory(start, folders, "generate_tp", "--devices", 2)
    assert one > 300e6
    assert rank <= 0.6 * one

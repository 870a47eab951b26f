"""The commands over several devices, from the shell, with the default model."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mygpt import LLM
from tests.models import needs_compiler
from tests.parallel.conftest import Start, free_port

QUESTION = ["--prompt", "What is the capital of France?", "--temperature", 0]
ANSWER = "The capital of France is Paris.\n"
CPU3 = ["--devices", 3, "--accelerator", "cpu"]
CPU2 = ["--devices", 2, "--accelerator", "cpu"]
FSDP = ["--strategy", "fsdp", "--devices", 2, "--accelerator", "cpu"]


def full(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.full)


def outcome(process: Any, standard_input: str = "") -> tuple[int, str, str]:
    out, error = process.communicate(standard_input, timeout=120)
    return process.returncode, out, error


@pytest.mark.parametrize(
    ("command", "options", "strategy"),
    [
        full("generate_tp", CPU3, "tensor"),
        full("generate_sequentially", CPU3, "sequential"),
        ("generate_sequentially", ["--devices", "cpu,cpu", "--accelerator", "cpu"], "sequential"),
        full("generate", ["--devices", 2, "--accelerator", "cpu"], "sequential"),  # 9 heads
        full("generate", FSDP, "fsdp"),
    ],
)
def test_answers_as_one_device_does(
    start: Start, smollm2: Path, command: str, options: list[Any], strategy: str
) -> None:
    code, out, error = outcome(start(command, smollm2, *QUESTION, *options))
    assert (code, out) == (0, ANSWER)
    assert f"({strategy})" in error
    assert error.count("\n") == 1  # the statistics


@pytest.mark.parametrize(("command", "options"), [("generate_tp", CPU2), ("generate", FSDP)])
def test_two_ranks_of_a_small_model(start: Start, small: Path, command: str, options: list[Any]) -> None:
    alone = LLM.load(str(small), precision="32-true", accelerator="cpu")
    ids = alone.generate_ids(alone.encode(QUESTION[1]), max_new_tokens=3, temperature=0.0)
    asked = ["--json", "true", "--max_new_tokens", 3, "--precision", "32-true", *QUESTION, *options]
    code, out, error = outcome(start(command, small, *asked))
    assert code == 0, error
    assert json.loads(out)["token_ids"] == ids


def test_a_count_that_does_not_divide_is_refused(start: Start, smollm2: Path) -> None:
    process = start("generate_tp", smollm2, *QUESTION, "--devices", 2, "--accelerator", "cpu")
    code, out, error = outcome(process)
    assert (code, out) == (2, "")
    assert "heads 9" in error and "the device counts that do are 1, 3" in error
    assert error.count("\n") == 1


@pytest.mark.full
def test_samples_as_json_and_the_prompt_from_standard_input(start: Start, smollm2: Path) -> None:
    options = ["--prompt", "-", "--num_samples", 2, "--json", "true", "--seed", 7, "--max_new_tokens", 8]
    on_ranks = outcome(
        start("generate_tp", smollm2, *options, *CPU3, "--precision", "32-true"), "Tell a joke.\n"
    )
    on_one = outcome(start("generate", smollm2, *options, "--precision", "32-true"), "Tell a joke.\n")
    assert (on_ranks[0], on_one[0]) == (0, 0)
    samples, expected = ([json.loads(line) for line in out.splitlines()] for _, out, _ in (on_ranks, on_one))
    same = ("prompt", "text", "token_ids", "seed", "finish_reason")
    assert [[sample[key] for key in same] for sample in samples] == [
        [s[key] for key in same] for s in expected
    ]
    assert samples[0].keys() == expected[0].keys()
    assert samples[0]["device"] == "cpu:0,cpu:1,cpu:2"


@pytest.mark.full
def test_chat(start: Start, smollm2: Path) -> None:
    """The second answer needs the first: the ranks' caches have kept it."""
    options = ["--temperature", 0, "--max_new_tokens", 24, "--precision", "32-true"]
    messages = "What is the capital of France?\nAnd what is the capital of Italy?\n"
    on_ranks = outcome(start("chat", smollm2, *options, *CPU3), messages)
    on_one = outcome(start("chat", smollm2, *options), messages)
    assert on_ranks[:2] == on_one[:2]
    assert "Paris" in on_ranks[1] and "Rome" in on_ranks[1]


@pytest.mark.full
def test_torchrun_on_several_nodes(start: Start, smollm2: Path) -> None:
    """Three, as 9 heads want it, of one process each."""
    port = free_port()
    nodes = [
        start(
            "generate_tp", smollm2, *QUESTION, "--num_nodes", 3, "--devices", 1, "--accelerator", "cpu",
            launcher=[sys.executable, "-m", "torch.distributed.run", "--nnodes", "3", "--node_rank", str(rank),
                      "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port)],
        )
        for rank in range(3)
    ]  # fmt: skip
    outcomes = [outcome(node) for node in nodes]
    assert [code for code, _, _ in outcomes] == [0, 0, 0]
    assert [out for _, out, _ in outcomes] == [ANSWER, "", ""]


@pytest.mark.full
@needs_compiler
def test_compiled_ranks_give_the_same_ids(start: Start, small: Path) -> None:
    """The sums of the ranks are a part of what is compiled."""
    options = [
        "--json",
        "true",
        "--max_new_tokens",
        3,
        "--precision",
        "32-true",
        "--accelerator",
        "cpu",
        *QUESTION,
    ]
    compiled = outcome(start("generate_tp", small, *options, "--devices", 2, "--compile", "true"))
    assert compiled[0] == 0, compiled[2]
    plain = outcome(start("generate", small, *options))
    assert json.loads(compiled[1])["token_ids"] == json.loads(plain[1])["token_ids"]

"""Every command of README.md, tutorials/ and config_hub/ does what it is for, as does every one of the source pages."""

import re
from collections.abc import Callable

import pytest

from mygpt.__main__ import COMMANDS, main
from tests.pages.collect import PAGES, ROOT, Block, Command, blocks, commands, inline_code, name_of, split
from tests.pages.conftest import TRIED
from tests.pages.runner import attempt, execute, hub_url, loader, place, short_answers, tiny, way_of

__all__ = ["hub_url", "loader", "place", "tiny"]  # fixtures

# Programs of the pages that are not mygpt, and why no test here runs them.
OTHER_PROGRAMS = {
    "cd": "of the shell",
    "curl": "fetches a file of the Hub, which is not reached from the tests",
    "do": "of the shell",
    "echo": "its text is piped into the command after it",
    "eval": "of the shell; `mygpt completion` inside it is tried by itself",
    "export": "of the shell",
    "for": "of the shell",
    "git": "this repository is there already",
    "hf": "Hugging Face's own; asks for a token",
    "pip": "`.ci/run` runs the README's in a fresh environment",
    "printf": "its text is piped into the command after it",
    "pytest": "this is it",
    "python": "benchmarks are tried by tests/test_benchmarks.py, the page of families by test_models_page.py",
    "rsync": "copies to another machine",
    "wait": "of the shell",
}

# The commands of the two pages that mygpt came from, litgpt's tutorials of inference, and ours in their place.
SOURCE_PAGES = {
    'litgpt generate stabilityai/stablelm-base-alpha-3b --prompt "Hello, my name is"': (
        'mygpt generate stabilityai/stablelm-base-alpha-3b --prompt "Hello, my name is"'
    ),
    "litgpt chat stabilityai/stablelm-tuned-alpha-3b": "mygpt chat stabilityai/stablelm-tuned-alpha-3b",
    "litgpt chat togethercomputer/RedPajama-INCITE-Chat-3B-v1 --multiline true": (
        "mygpt chat togethercomputer/RedPajama-INCITE-Chat-3B-v1 --multiline true"
    ),
    "litgpt generate_sequentially meta-llama/Llama-2-70b-chat-hf --max_new_tokens 256 --num_samples 2": (
        "mygpt generate_sequentially meta-llama/Llama-2-70b-chat-hf --max_new_tokens 256 --num_samples 2"
    ),
    "CUDA_VISIBLE_DEVICES=0,1 litgpt generate_sequentially meta-llama/Llama-2-70b-chat-hf --quantize bnb.nf4-dq": (
        "CUDA_VISIBLE_DEVICES=0,1 mygpt generate_sequentially meta-llama/Llama-2-70b-chat-hf --max_new_tokens 256 "
        "--num_samples 2 --quantize bnb.nf4-dq"
    ),
    "litgpt generate_tp meta-llama/Llama-2-70b-chat-hf --max_new_tokens 256 --num_samples 2": (
        "mygpt generate_tp meta-llama/Llama-2-70b-chat-hf --max_new_tokens 256 --num_samples 2"
    ),
    "litgpt generate_tp meta-llama/Llama-2-70b-chat-hf … --quantize bnb.nf4-dq": (
        "mygpt generate_tp meta-llama/Llama-2-70b-chat-hf --max_new_tokens 256 --num_samples 2 --quantize bnb.nf4-dq"
    ),
    'python generate/base.py --prompt "Hello, my name is" --checkpoint_dir checkpoints/stabilityai/stablelm-base-…': (
        'mygpt generate stabilityai/stablelm-base-alpha-3b --prompt "Hello, my name is"'
    ),
    "python chat/base.py --checkpoint_dir checkpoints/stabilityai/stablelm-tuned-alpha-3b": (
        "mygpt chat stabilityai/stablelm-tuned-alpha-3b"
    ),
    "python generate/base.py --checkpoint_dir checkpoints/tiiuae/falcon-40b --strategy fsdp --devices 4": (
        "mygpt generate tiiuae/falcon-40b --strategy fsdp --devices 4"
    ),
    "the same with --devices 2 and cpu_offload=True in its file": (
        "mygpt generate tiiuae/falcon-40b --strategy fsdp --devices 2 --cpu_offload true"
    ),
}

FOUND = commands()
OURS = [command for command in FOUND if command.arguments is not None]
SOURCES = [command for text in SOURCE_PAGES.values() for command in split(text, "source pages")]
PYTHON = [[b for b in blocks(page) if b.language == "python"] for page in PAGES]


def parameters(some: list[Command]) -> list[object]:
    return [pytest.param(command, id=f"{command.page}: {command.text}"[:120]) for command in some]


@pytest.mark.parametrize("command", parameters(OURS + SOURCES))
def test_a_command_of_a_page(
    command: Command,
    place: object,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    record_property(TRIED, way_of(command))
    attempt(command, monkeypatch, capfd)


def test_every_other_program_is_known() -> None:
    """A new one in a page needs a way to try it, or a reason why not."""
    others = {command.words[0].rpartition("/")[2] for command in FOUND if command.arguments is None}
    assert others <= OTHER_PROGRAMS.keys(), sorted(others - OTHER_PROGRAMS.keys())


def test_the_commands_are_found() -> None:
    """The expressions that look for commands would also find none."""
    texts = [command.text for command in OURS]
    assert 'pip install -e . && mygpt generate --prompt "What is the capital of France?"' in texts
    assert len(OURS) > 100
    assert {command.arguments[0] for command in OURS if command.arguments} >= COMMANDS.keys()


@pytest.mark.parametrize("page_blocks", [pytest.param(b, id=b[0].page) for b in PYTHON if b])
def test_the_python_of_a_page(
    page_blocks: list[Block], place: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with short_answers(monkeypatch):
        execute(page_blocks)


# Options of other programs, and ways of writing ours.
FOREIGN_OPTIONS = {
    "--nproc_per_node",
    "--node_rank",
    "--nnodes",
    "--ntasks_per_node",
    "--gpus_per_node",
    "--full",
}


def test_every_option_of_the_pages_exists(capfd: pytest.CaptureFixture[str]) -> None:
    known = set(FOREIGN_OPTIONS)
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        known |= set(re.findall(r"--[a-z][a-z_]*", capfd.readouterr().out))
    for page in PAGES:
        for code in inline_code(page):
            named = {
                word.replace("-", "_").replace("__", "--", 1)
                for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
            }
            assert named <= known, f"{name_of(page)}: {code}"


CHAT = next(b for b in blocks(ROOT / "tutorials" / "chat.md") if ">>> What" in b.content)


def test_the_conversation_of_the_tutorial(
    place: object, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its questions get the answers that the page shows."""
    said = re.findall(r"^>>> (?!/)(.*)\n(.*)", CHAT.content, re.MULTILINE)
    questions, answers = ("\n".join(lines) for lines in zip(*said, strict=True))
    command = Command(
        CHAT.page, "", ("mygpt", "chat", "--temperature", "0"), ("printf", questions), output=answers
    )
    attempt(command, monkeypatch, capfd)

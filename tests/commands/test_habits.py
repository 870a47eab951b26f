"""Command lines as users of other programs write them; `--print_config` shows how they were understood."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mygpt import __version__
from mygpt.__main__ import main
from mygpt.commands._habits import OTHER_NAMES, canonical
from mygpt.commands.generate import build_parser
from mygpt.options import ChatOptions, GenerateOptions, LoadOptions, PlanOptions

Understood = Callable[..., dict[str, Any]]


@pytest.fixture
def understood(capfd: pytest.CaptureFixture[str]) -> Understood:
    """Run a command line with `--print_config` at its end; gives what was printed."""

    def run(*arguments: str) -> dict[str, Any]:
        capfd.readouterr()
        code = main([*arguments, "--print_config"])
        out, err = capfd.readouterr()
        assert (code, err) == (0, "")
        return dict(yaml.safe_load(out))

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max-new-tokens", "5"], {"max_new_tokens": 5}),
        (["--max-new-tokens=5"], {"max_new_tokens": 5}),
        (["--sys-prompt", "a-b-c", "--top-k=7"], {"sys_prompt": "a-b-c", "top_k": 7}),
        (["--prompt=--max-new-tokens"], {"prompt": "--max-new-tokens", "max_new_tokens": None}),
        (["--prompt", "a-b"], {"prompt": "a-b"}),
        (["--prompt", "- a-b, c"], {"prompt": "- a-b, c"}),
        (["--temp", "0"], {"temperature": 0.0}),  # the first letters, if no other option begins so
        (["-p", "Hi"], {"prompt": "Hi"}),
        (["-pHi"], {"prompt": "Hi"}),
        (["-p=Hi"], {"prompt": "Hi"}),
        (["-p", "-"], {"prompt": "-"}),
        (["repo", "Hi there"], {"checkpoint": "repo", "prompt": "Hi there"}),
        (["repo", "-"], {"checkpoint": "repo", "prompt": "-"}),
        (["repo", "- one\n- two"], {"checkpoint": "repo", "prompt": "- one\n- two"}),
        (["--seed", "1", "repo", "--top_k", "2", "Hi"], {"checkpoint": "repo", "prompt": "Hi", "seed": 1}),
        (["repo", "42"], {"checkpoint": "repo", "prompt": "42"}),
        (["--json"], {"json": True}),
        (["--json", "true"], {"json": True}),
        (["--json", "false"], {"json": False}),
        (["--json=false"], {"json": False}),
        (["--json", "repo"], {"json": True, "checkpoint": "repo"}),
        (["--json", "repo", "true"], {"json": True, "checkpoint": "repo", "prompt": "true"}),
        (["--json", "--seed", "3"], {"json": True, "seed": 3}),
        (["--compile", "--raw-prompt", "--cpu-offload"], {"compile": True, "raw_prompt": True}),
        (["--stop", "###"], {"stop": ["###"]}),
        (["--stop", "A", "--seed", "1", "--stop=B=b"], {"stop": ["A", "B=b"]}),
        (["--stop", '["\\n\\n", "###"]'], {"stop": ["\n\n", "###"]}),
        (["--stop", '["A", "B"]', "--stop", "C"], {"stop": ["A", "B", "C"]}),
        (["--stop", "[INST]"], {"stop": ["[INST]"]}),
        (["--stop", "[" * 10**5], {"stop": ["[" * 10**5]}),
        (["--stop", "5", "--stop", "null", "--stop", "{"], {"stop": ["5", "null", "{"]}),
        (["--stop", "\x7f\u2028\N{PILE OF POO}"], {"stop": ["\x7f\u2028\N{PILE OF POO}"]}),
        (["--stop", r'["\ud83d\ude00"]'], {"stop": ["\N{GRINNING FACE}"]}),
        (["--stop+", '["A"]'], {"stop": ["A"]}),  # jsonargparse's own
    ],
    ids=lambda value: str(value)[:60],
)
def test_generate(understood: Understood, arguments: list[str], expected: dict[str, Any]) -> None:
    options = understood("generate", *arguments)
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chat", "--multiline", "--markdown"], {"multiline": True, "markdown": True}),
        (["chat", "--markdown", "null", "--on-overflow=error"], {"markdown": None, "on_overflow": "error"}),
        (["chat", "--multiline", "repo"], {"multiline": True, "checkpoint": "repo"}),
        (["plan", "--compare", "repo", "--json"], {"compare": True, "json": True, "checkpoint": "repo"}),
        (["plan", "--device-memory", "24 GB"], {"device_memory": "24 GB"}),
        (["generate-tp", "repo", "Hi"], {"prompt": "Hi", "devices": "auto"}),
        (["generate-sequentially", "--num-samples", "2"], {"num_samples": 2}),
        (["download", "a/b", "--checkpoint-dir", "c-d"], {"repo": "a/b", "checkpoint_dir": "c-d"}),
        (["convert", "a-b", "c-d", "--access-token=e-f"], {"source": "a-b", "target": "c-d"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_other_commands(understood: Understood, arguments: list[str], expected: dict[str, Any]) -> None:
    options = understood(*arguments)
    assert {name: options[name] for name in expected} == expected


def test_after_two_dashes_all_is_text() -> None:
    parser = build_parser()
    assert canonical(parser, ["--seed", "1", "--", "repo"]) == ["--seed=1", "--", "repo"]
    assert canonical(parser, ["repo", "--", "--top-k is?"]) == ["repo", "--prompt=--top-k is?"]
    assert canonical(parser, ["--", "-x", "-y"]) == ["--prompt=-y", "--", "-x"]


def test_the_later_of_file_and_option_wins(understood: Understood, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("stop: '#'\nprecision: bf16\njson: true\n")
    config = ("--config", str(file))
    assert understood("generate", *config)["stop"] == "#"
    assert understood("generate", *config, "--stop", "A", "--stop", "B")["stop"] == ["A", "B"]
    assert understood("generate", "--stop", "A", *config)["stop"] == "#"
    assert understood("generate", *config, "--json", "false")["json"] is False


def test_dashes_in_a_file(understood: Understood, tmp_path: Path) -> None:
    """In the names of options, not in their values."""
    file = tmp_path / "options.yaml"
    file.write_text("max-new-tokens: 5\nsys-prompt: |\n  top-k: 1\nprompt: a-b\n")
    expected = {"max_new_tokens": 5, "sys_prompt": "top-k: 1\n", "prompt": "a-b", "top_k": None}
    options = understood("generate", "--config", str(file))
    assert {name: options[name] for name in expected} == expected


def test_the_names_of_other_programs_are_none_of_ours() -> None:
    """What they stand for is an option, or they would suggest what there is not."""
    ours = {action.dest for action in build_parser()._actions}
    assert set(OTHER_NAMES.values()) <= ours
    assert ours.isdisjoint(OTHER_NAMES)


def test_one_stop_text_is_a_list_of_one() -> None:
    assert GenerateOptions(stop="#").stop == ["#"]
    assert ChatOptions(stop="#").stop == ["#"]


@pytest.mark.parametrize(
    ("given", "precision"),
    [
        *dict.fromkeys(("bf16", "bfloat16", "bf16-true"), "bf16-true").items(),
        *dict.fromkeys(("fp16", "float16", "half", "16", "16-true"), "16-true").items(),
        *dict.fromkeys(("fp32", "float32", "32", "32-true"), "32-true").items(),
        (None, None),
    ],
)
def test_precision(given: str | None, precision: str | None) -> None:
    assert LoadOptions(precision=given).precision == precision


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *dict.fromkeys(("24G", "24GB", "24 GB", "24g", "24gb", "24.0G"), 24e9).items(),
        *dict.fromkeys(("24GiB", "24 gib", "24Gi"), 24 * 2**30).items(),
        ("512M", 512e6),
        ("1.5T", 1.5e12),
    ],
)
def test_sizes(text: str, size: float) -> None:
    assert PlanOptions(device_memory=text).memory_bytes == size


@pytest.mark.parametrize("flag", ["-V", "--version", "version"])
def test_version(flag: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capfd.readouterr() == (f"{__version__}\n", "")

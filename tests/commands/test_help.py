"""`--help` of every command: 80 columns, plain words, each option in one group, examples that run."""

import importlib
import re
import shlex
from dataclasses import fields

import pytest

from mygpt.__main__ import COMMANDS, main, usage
from mygpt.commands._help import GROUPS, grouped
from mygpt.commands._parser import Parser, parse
from mygpt.options import ChatOptions, GenerateOptions, LoadOptions, PlanOptions, ReplOptions, SamplingOptions

OPTIONS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("generate", "generate_sequentially", "generate_tp"), (GenerateOptions, SamplingOptions, LoadOptions)
    ),
    "chat": (ReplOptions, ChatOptions, SamplingOptions, LoadOptions),
    "plan": (PlanOptions,),
}


def parser_of(command: str) -> Parser:
    parser = importlib.import_module(f"mygpt.commands.{command}").build_parser()
    assert isinstance(parser, Parser)
    return parser


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def page(command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out


def test_a_page_is_for_people(command: str, page: str) -> None:
    assert page.startswith(f"usage: mygpt {command}")
    assert page.splitlines()[0].endswith(" [options]")
    assert max(map(len, page.splitlines())) <= 80
    for python in ("null", "None", "type:", "str", "bool", "`", "required"):
        assert not re.search(rf"(?<!\w){python}(?!\w)", page), python


def test_each_option_is_told_once_in_a_group(command: str, page: str) -> None:
    entries = re.findall(r"^  (?:-\w, )?--(\w+)", page, re.MULTILINE)
    expected = {field.name for options in OPTIONS.get(command, ()) for field in fields(options)}
    assert len(entries) == len(set(entries))
    assert expected <= {*entries}
    options = {action.dest for actions in grouped(parser_of(command)).values() for action in actions}
    assert {*entries} == options
    known = {name for names in GROUPS.values() for name in names}
    assert options <= known, "give a new option a group: in mygpt/commands/_help.py, GROUPS"
    assert set(re.findall(r"^(\w+):$", page, re.MULTILINE)) <= {*GROUPS, "examples"}


def test_no_option_is_in_two_groups() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))


def test_every_option_has_a_description(command: str) -> None:
    for action in parser_of(command)._actions:
        assert action.help, action.dest


def arguments_of(example: str) -> list[str]:
    """What a shell would pass to mygpt: without what stands around it."""
    line = example.replace("\\\n", " ")
    line = re.split(r" > | >> |\)\"", line[re.search(r"\bmygpt ", line).end() :])[0]  # type: ignore[union-attr]
    return shlex.split(line)


def test_the_examples_parse(command: str) -> None:
    parser = parser_of(command)
    assert parser.examples
    for example in parser.examples:
        name, *arguments = arguments_of(example)
        assert name == command
        parse(parser, arguments)


def test_the_top_page(capfd: pytest.CaptureFixture[str]) -> None:
    page = usage()
    assert max(map(len, page.splitlines())) <= 80
    for name in COMMANDS:
        assert f"\n  {name} " in page
    examples = page.split("examples:\n")[1].splitlines()
    assert len(examples) >= 2
    for example in examples:
        name, *arguments = arguments_of(example)
        parse(parser_of(name), arguments)
    for flags in (["help"], ["--help"], ["-h"], []):
        assert main(flags) == 0
        assert capfd.readouterr().out == page


def test_help_is_a_command_too(page: str, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name in (command, command.replace("_", "-")):
        assert main(["help", name]) == 0
        assert capfd.readouterr().out == page


def test_help_comes_before_what_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    page = parser_of("generate").format_help()
    for arguments in (["--temprature", "0", "--help"], ["-h", "--top-k"], ["a", "b", "c", "--help"]):
        assert main(["generate", *arguments]) == 0
        assert capfd.readouterr() == (page, "")
    assert main(["generate", "--", "a", "b", "--help"]) == 2


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = parser_of("chat").format_help().split("\nexamples:")[0].splitlines()
    entries = [line for line in lines if line.startswith(" " * 26)]
    assert max(map(len, entries)) <= 60
    monkeypatch.setenv("COLUMNS", "5")
    assert "--seed N" in parser_of("chat").format_help()


def test_defaults_are_told_in_words() -> None:
    page = " ".join(parser_of("generate").format_help().split())
    assert "Run this many prompts of a file together. Default: 8." in page
    assert "processes or parts. Default: 1." in page
    assert "processes or parts. Default: auto." in " ".join(parser_of("generate_tp").format_help().split())
    assert "{bnb.nf4,bnb.nf4-dq,bnb.fp4,bnb.fp4-dq,bnb.int8}" in page

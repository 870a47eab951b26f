"""`mygpt completion SHELL`: the script that makes a shell complete mygpt's commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from mygpt.commands._habits import BOOLEAN_WORDS, kinds, takes_value
from mygpt.commands._help import metavar
from mygpt.commands._parser import Parser, make_parser, parse
from mygpt.errors import InputError, RunError
from mygpt.options import choices

EXAMPLES = (
    """echo 'eval "$(mygpt completion bash)"' >> ~/.bashrc""",
    """echo 'eval "$(mygpt completion zsh)"' >> ~/.zshrc""",
    "mygpt completion fish > ~/.config/fish/completions/mygpt.fish",
)
# Positional arguments and options that are files or folders, or may be.
_PATHS = ("checkpoint", "source", "target", "draft", "checkpoint_dir", "config")


def build_parser() -> Parser:
    """The options of the command."""
    description = "Print a script that makes a shell complete mygpt's commands, options and choices."
    parser = make_parser("completion", description, EXAMPLES, checkpoint=False)
    parser.add_argument("shell", type=str, help=f"{', '.join(choices('shell'))}.")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options and print the script."""
    shell = parse(build_parser(), arguments).shell
    if shell not in choices("shell"):
        raise InputError(f"SHELL must be one of {', '.join(choices('shell'))}, it is {shell!r}")
    print(script(shell))


def script(shell: str) -> str:
    """The script for a shell.

    Raises:
        RunError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise RunError("mygpt completion needs the package shtab: install it with pip") from error
    return str(shtab.complete(_tree(shtab.FILE), shell))


def _tree(files: object) -> argparse.ArgumentParser:
    """All commands in one parser of argparse, which shtab reads."""
    tree = argparse.ArgumentParser(prog="mygpt")
    tree.add_argument("-V", "--version", action="store_true", help="print the version")
    commands = tree.add_subparsers()
    for name in sorted(module.name for module in iter_modules([str(Path(__file__).parent)])):
        if name.startswith("_"):
            continue
        parser = import_module(f"mygpt.commands.{name}").build_parser()
        command = commands.add_parser(name, help=parser.description, add_help=False)
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                _add(command, action, files)
    return tree


def _add(command: argparse.ArgumentParser, action: argparse.Action, files: object) -> None:
    """One option or positional argument, with what its values can be."""
    summary = (action.help or "").partition(". ")[0]
    names = [name for name in action.option_strings if not name.endswith("+")] or [action.dest]
    if action.option_strings and not takes_value(action):
        command.add_argument(*names, action="store_true", help=summary)
        return
    known = BOOLEAN_WORDS[:2] if bool in kinds(action) else choices(action.dest)
    copy = command.add_argument(*names, choices=known or None, help=summary, metavar=metavar(action) or None)
    if Path in kinds(action) or action.dest in _PATHS:
        copy.complete = files  # type: ignore[attr-defined]

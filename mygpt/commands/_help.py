"""The help of a command, in 80 columns: usage, options by groups, examples.

An option's description is its line in the docstring of its dataclass. `GROUPS` says where it stands.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from mygpt.commands._habits import kinds, takes_value
from mygpt.options import choices

# In the order in which they are shown. A new option goes here too; a test tells.
GROUPS = {
    "plan": ("command", "prompt_tokens", "compare"),
    "prompt": (
        "prompt", "prompts", "batch_size", "sys_prompt", "think", "chat_template_kwargs", "raw_prompt",
        "prompt_style",
    ),
    "conversation": ("load", "multiline", "on_overflow", "repetition_guard"),
    "sampling": (
        "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "num_samples",
        "stop", "speculate",
    ),
    "output": ("json", "paths", "yes", "markdown"),
    "model": (
        "dtype", "precision", "quantize", "context_length", "compile", "draft", "checkpoint_dir", "revision",
        "access_token",
    ),
    "devices": (
        "accelerator", "devices", "num_nodes", "strategy", "cpu_offload", "device_memory", "bandwidth",
    ),
    "other": ("config", "print_config", "help"),
}  # fmt: skip

METAVARS = {
    "access_token": "TOKEN",
    "bandwidth": "GB/S",
    "chat_template_kwargs": "JSON",
    "checkpoint_dir": "FOLDER",
    "config": "FILE",
    "device_memory": "SIZE",
    "devices": "N|LIST",
    "draft": "MODEL",
    "revision": "NAME",
}
_BY_KIND = {int: "N", float: "X", Path: "FILE"}  # others: TEXT

_WIDTH, _COLUMN = 80, 26  # of a line; where the descriptions begin


def format_help(parser: argparse.ArgumentParser, examples: tuple[str, ...]) -> str:
    """What `mygpt COMMAND --help` prints."""
    width = max(_COLUMN + 20, min(_WIDTH, shutil.get_terminal_size().columns))
    positionals = [action for action in parser._actions if not action.option_strings]
    lines = [f"usage: {usage(parser)}", "", *textwrap.wrap(parser.description or "", width), ""]
    for action in positionals:
        lines += _entry(action.dest.upper(), _description(action), width)
    for title, actions in grouped(parser).items():
        lines += ["", f"{title}:"]
        for action in actions:
            lines += _entry(_invocation(action), _description(action), width)
    if switch := next((action.dest for action in parser._actions if bool in kinds(action)), None):
        lines += ["", f"A switch needs no value: --{switch} is --{switch} true."]
    if examples:
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    return "\n".join(lines) + "\n"


def usage(parser: argparse.ArgumentParser) -> str:
    """The command's shape: `mygpt generate [CHECKPOINT] [options]`."""
    words = [parser.prog]
    for action in parser._actions:
        if not action.option_strings:
            name = action.dest.upper()
            words.append(f"[{name}]" if action.nargs == "?" else name)
    return " ".join([*words, "[options]"])


def grouped(parser: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    """The options of each group that has some; one that stands in no group is among the last."""
    options = {action.dest: action for action in parser._actions if _is_shown(action)}
    groups = {
        title: [options.pop(name) for name in names if name in options] for title, names in GROUPS.items()
    }
    groups["other"][:0] = options.values()
    return {title: actions for title, actions in groups.items() if actions}


def metavar(action: argparse.Action) -> str:
    """What stands for an option's value, "" if it has none or needs none."""
    if not takes_value(action) or bool in kinds(action):
        return ""
    if known := choices(action.dest):
        return "{" + ",".join(known) + "}"
    return METAVARS.get(action.dest) or next(
        (word for kind, word in _BY_KIND.items() if kind in kinds(action)), "TEXT"
    )


def _is_shown(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.help != argparse.SUPPRESS


def _invocation(action: argparse.Action) -> str:
    names = [name for name in action.option_strings if not name.endswith("+")]
    return " ".join(filter(None, (", ".join(sorted(names, key=len)), metavar(action))))


def _description(action: argparse.Action) -> str:
    """The description, and the default where that is a value and the text does not name it."""
    text = " ".join((action.help or "").split())
    if action.dest == "help":
        return "Show this page."
    if action.dest == "print_config":
        return "Print the options as YAML, which --config reads, and exit."
    default = action.default
    if default in (None, [], argparse.SUPPRESS) or isinstance(default, bool) or "efault" in text:
        return text
    return f"{text} Default: {default:g}." if isinstance(default, float) else f"{text} Default: {default}."


def _entry(name: str, text: str, width: int) -> Iterator[str]:
    room = _COLUMN - 3  # two spaces before the name and at least one after it
    lines = textwrap.wrap(text, width - _COLUMN, break_on_hyphens=False) or [""]
    if len(name) > room:
        yield f"  {name}"
    else:
        yield f"  {name:<{room}} {lines.pop(0)}".rstrip()
    for line in lines:
        yield " " * _COLUMN + line

"""`mygpt doctor`: what a bug report needs to tell about a machine, and what is wrong there."""

from __future__ import annotations

import json as jsons
import sys
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from mygpt.commands._doctor.probes import examine
from mygpt.commands._parser import Parser, make_parser, parse
from mygpt.commands._words import size_text
from mygpt.messages import for_output

WIDTH = 80
_INDENT = " " * 4  # pasted into an issue, Markdown takes it for code and keeps the columns
_LABEL = 20
_VERBATIM = ("versions", "environment")  # whose keys are names


def build_parser() -> Parser:
    """The options of the command."""
    examples = ("mygpt doctor", "mygpt doctor --json > machine.json")
    description = "Tell about this machine and its settings, for a bug report."
    parser = make_parser("doctor", description, examples, checkpoint=False)
    parser.add_function_arguments(doctor)
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options, examine the machine, print."""
    doctor(parse(build_parser(), arguments).json)


def doctor(json: bool = False) -> None:
    """Versions, devices, kernels, bandwidth, caches, the Hub and what is wrong, to be pasted into a bug report.

    It holds no names of users or hosts, and no tokens.

    Args:
        json: Print one JSON object instead of text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of old drivers and such: that is told below
        report = examine()
    print(jsons.dumps(report) if json else for_output(text(report), sys.stdout))


def text(report: dict[str, Any]) -> str:
    """The report in lines of at most 80 columns, unless a single word is longer."""
    lines = []
    for section, facts in report.items():
        lines.append(_INDENT + section)
        if section == "problems":
            lines += _problems(facts)
        elif isinstance(facts, dict) and facts:
            for key, value in facts.items():
                lines += _fact(key if section in _VERBATIM else _label(key), key, value)
        else:
            lines += _wrapped(f"  {facts or 'none'}", "  ")
        lines.append("")
    return "\n".join(lines[:-1])


def _problems(problems: list[dict[str, str]]) -> list[str]:
    lines = [] if problems else [f"{_INDENT}  none found"]
    for found in problems:
        lines += _wrapped(f"  - {found['problem']}", "    ")
        lines += _wrapped(f"    {found['remedy']}", "    ")
    return lines


def _fact(label: str, key: str, value: Any) -> list[str]:
    """A line for each item of a list, one for anything else; longer ones go on below their beginning."""
    items = value if isinstance(value, list) and value else [value]
    lines: list[str] = []
    for item in items:
        lines += _wrapped(f"  {label:<{_LABEL}}{_shown(key, item)}", " " * (_LABEL + 2))
        label = ""
    return lines


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(
        line,
        WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT + indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _label(key: str) -> str:
    """A key in words."""
    return key.removesuffix("_bytes").removesuffix("_gb_per_s").replace("_", " ")


def _shown(key: str, value: Any) -> str:
    """A value in words: sizes in their unit, the facts of a part in a row."""
    if isinstance(value, dict):
        plain = ("path", "name")  # say themselves what they are
        return ", ".join(
            ("" if name in plain else f"{_label(name)} ") + _shown(name, part) for name, part in value.items()
        )
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith("_bytes"):
        return size_text(value)
    return f"{value:.1f} GB/s" if isinstance(value, float) and key.endswith("_gb_per_s") else str(value)

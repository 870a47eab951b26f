"""A message of several lines between triple quotes, as Ollama has it."""

from __future__ import annotations

import re

QUOTES = '"""'
_QUOTED = re.compile(r'\s*"""((?:(?!""").)*)(?:"""\s*)?', re.DOTALL)


def is_open(text: str) -> bool:
    """Whether the text begins with triple quotes that are not closed yet."""
    return text.lstrip().startswith(QUOTES) and text.count(QUOTES) == 1


def unquote(text: str) -> str | None:
    """What follows the triple quotes that the text begins with, up to those that it ends with.

    None where it does not begin with them, or goes on after the closing ones, as a pasted Python file may.
    """
    quoted = _QUOTED.fullmatch(text)
    return quoted[1].removeprefix("\n").removesuffix("\n") if quoted else None

"""What mygpt says on standard error, and how any text is put on a terminal.

Names and texts come from files and from models. None of them may control the terminal (set its title, write to the
clipboard, hide what follows), fill the screen, or show a token of the Hub.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

TOKEN, HIDDEN_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "hf_***"  # the Hub's
LONGEST = 1000  # characters of a message; more of it helps nobody

# C0 and C1 controls but tab and newline, line separators, what reverses the order of letters, lone surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with each control character but tab and newline as JSON writes it: `\u001b`."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def for_output(text: str, out: TextIO) -> str:
    """The text as it goes to `out`: printable on a terminal, unchanged in a file or a pipe."""
    return printable(text) if out.isatty() else text


def one_line(text: object) -> str:
    """A message: one line, printable, without tokens, its middle left out where it is longer than `LONGEST`."""
    line = TOKEN.sub(HIDDEN_TOKEN, printable(" ".join(str(text).split())))
    if len(line) <= LONGEST:
        return line
    head, tail = (
        LONGEST * 2 // 3,
        LONGEST // 4,
    )  # what is wrong stands at the beginning, the remedy at the end
    return f"{line[:head]} [...] {line[-tail:]}"


def tell(message: object) -> None:
    """Print a message on standard error."""
    print(one_line(message), file=sys.stderr, flush=True)

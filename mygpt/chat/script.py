"""Reads a conversation from a file or a pipe, one text a line."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TextIO

from mygpt.chat.dispatch import dispatch
from mygpt.chat.multiline import is_open
from mygpt.chat.session import Session
from mygpt.chat.slash_commands import SUBMIT, is_command
from mygpt.errors import InputError


def run_script(session: Session, lines: TextIO) -> None:
    """Handle each line; blank lines are skipped.

    Raises:
        InputError: the lines are not UTF-8; or, after all were handled, at least one of them failed.
    """
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(encoding="utf-8-sig", errors="strict")
    try:
        for text in _texts(session, lines):
            if text.strip():
                dispatch(session, text)
            if session.done:
                break
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not text ({error}); write it in UTF-8") from error
    if session.failed:
        raise InputError(f"{session.failed} of the lines failed; what was wrong is said above")


def _texts(session: Session, lines: Iterable[str]) -> Iterator[str]:
    """Line by line. Triple quotes begin and end a message; in multi-line mode one is all lines up to a `!submit`."""
    message: list[str] = []
    quoted = ""
    for line in lines:
        line = line.removesuffix("\n")
        if quoted or (not message and is_open(line)):
            quoted = f"{quoted}\n{line}" if quoted else line
            if not is_open(quoted):
                yield quoted
                quoted = ""
        elif not session.multiline or (not message and is_command(line)):
            yield line
        elif line.strip() == SUBMIT:
            yield "\n".join(message)
            message = []
        else:
            message.append(line)
    yield quoted or "\n".join(message)

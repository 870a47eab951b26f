"""A conversation from a file or a pipe: one text a line."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TextIO

from mygpt.chat.session import Session, is_command
from mygpt.chat.slash_commands import SUBMIT
from mygpt.errors import InputError


def run_script(session: Session, lines: TextIO) -> None:
    """Handle each line; those that are blank are skipped.

    Raises:
        InputError: the lines are not UTF-8, or at least one of them failed, after all were handled.
    """
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(encoding="utf-8-sig", errors="strict")
    try:
        for text in _texts(session, lines):
            if text.strip():
                session.handle(text)
            if session.done:
                break
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not text ({error}); write it in UTF-8") from error
    if session.failed:
        raise InputError(f"{session.failed} of the lines failed; what was wrong is said above")


def _texts(session: Session, lines: Iterable[str]) -> Iterator[str]:
    """Line by line; in multi-line mode, messages of those up to a `!submit`."""
    message: list[str] = []
    for line in lines:
        line = line.removesuffix("\n")
        if not session.multiline or (not message and is_command(line)):
            yield line
        elif line.strip() == SUBMIT:
            yield "\n".join(message)
            message = []
        else:
            message.append(line)
    yield "\n".join(message)

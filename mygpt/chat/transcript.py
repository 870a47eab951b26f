"""A conversation as a file: one line of JSON with the messages and the settings.

The line has the key "messages", so `mygpt generate --prompts` can read it as a row.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mygpt.errors import InputError
from mygpt.text.chat_template import Message


def write_transcript(path: Path, messages: Sequence[Message], settings: Mapping[str, Any]) -> None:
    """Write a transcript, all of it or nothing: an existing file stays until the new one is complete.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps({"messages": list(messages), "settings": dict(settings)}, ensure_ascii=False) + "\n"
    temporary = None
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is no regular file; name another file")  # it would be replaced by one
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def read_transcript(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages and the settings of a file that `write_transcript` wrote.

    Raises:
        InputError: the file cannot be read, or is not a transcript.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no saved conversation: not JSON ({error})") from error
    messages = content.get("messages") if isinstance(content, dict) else None
    settings = content.get("settings", {}) if isinstance(content, dict) else None
    if (
        not isinstance(messages, list)
        or not all(map(_is_message, messages))
        or not isinstance(settings, dict)
    ):
        raise InputError(
            f'{path} is no saved conversation: it must be {{"messages": [...], "settings": {{...}}}}'
        )
    return [dict(message) for message in messages], settings


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in ("system", "user", "assistant")
        and isinstance(message.get("content"), str)
    )

"""A conversation as a file: one line of JSON with the messages and the settings.

The line has the key "messages", so `mygpt generate --prompts` can read it as a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mygpt.errors import InputError
from mygpt.paths import write_whole
from mygpt.text.chat_template import Message

LARGEST = 200_000_000  # bytes of a transcript


def write_transcript(path: Path, messages: Sequence[Message], settings: Mapping[str, Any]) -> None:
    """Write a transcript, all of it or nothing: an existing file stays until the new one is complete.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps({"messages": list(messages), "settings": dict(settings)}, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def read_transcript(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages and the settings of a file that `write_transcript` wrote.

    Raises:
        InputError: the file cannot be read, or is not a transcript.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no saved conversation: it is no file")
        if (size := path.stat().st_size) > LARGEST:
            raise InputError(f"{path} is no saved conversation: it has {size / 1e6:.0f} MB")
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

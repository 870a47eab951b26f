"""What a generating command is to answer: `--prompt`, standard input, or the rows of `--prompts`."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mygpt.commands._parser import check_no_fifo
from mygpt.errors import InputError, did_you_mean
from mygpt.messages import tell
from mygpt.options import ChatOptions, GenerateOptions, SamplingOptions, check_types

if TYPE_CHECKING:
    from mygpt.llm import Prompt

DEFAULT_PROMPT = "What food do llamas eat?"  # litgpt's
TEXT_LIMIT = 200_000_000  # characters of a file of prompts, or of standard input
PIPE_WAIT_S = 3.0  # for the first byte of a pipe that nobody said to read

_OF_SAMPLING = tuple(f.name for f in fields(SamplingOptions))
_OF_ROW = ("sys_prompt", "think", "chat_template_kwargs", "max_new_tokens", "seed", "stop")
_PROMPTS = {"prompt": str, "messages": list}  # a row has one of these keys
ROW_OPTIONS = (*_OF_ROW, *_OF_SAMPLING)


@dataclass(frozen=True)
class Request:
    """A prompt, its row's `id`, and the options that its row sets in place of the command line's.

    `where` names the row in errors, as `FILE, line 3`; "" for a prompt of the command line.
    """

    prompt: Prompt
    id: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)


def read_requests(prompt: str | None, file: Path | None) -> list[Request]:
    """What `--prompt` and `--prompts` ask for; without both, standard input if it is a pipe, else the default prompt.

    Raises:
        InputError: both are given, standard input is not text, or a row of the file is malformed.
    """
    if prompt is not None and file is not None:
        raise InputError("--prompt and --prompts are two ways to ask; give one of them")
    if file is not None:
        return _read_file(file)
    if prompt is None:
        prompt = _from_pipe()
    elif prompt == "-" and not (prompt := _from_stdin()).strip():
        raise InputError("standard input is empty: write the prompt to it, or give a text in place of -")
    return [Request(prompt)]


def _from_pipe() -> str:
    """The text of a pipe or a redirected file; the default prompt where there is none, or it is empty."""
    text = _from_stdin() if _is_piped() else ""
    if text.strip():
        return text
    tell(f'no prompt is given, so it is "{DEFAULT_PROMPT}" (--prompt TEXT asks another)')
    return DEFAULT_PROMPT


def _is_piped() -> bool:
    """Whether standard input is a file or a pipe that something comes out of.

    A program that starts mygpt may leave a pipe open that nothing is ever written to. So an unasked pipe is given a
    few seconds only; `--prompt -` waits for as long as it takes.
    """
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file
        return False
    if stat.S_ISREG(mode):
        return True
    if not stat.S_ISFIFO(mode):
        return False
    if sys.platform == "win32":  # which cannot wait for a pipe
        return True
    if select.select([descriptor], [], [], PIPE_WAIT_S)[0]:
        return True
    tell("nothing came from standard input; --prompt - waits for it")
    return False


def _from_stdin() -> str:
    try:
        return _read(sys.stdin, "standard input").removesuffix("\n")  # the shell's newline, not the user's
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not text ({error}); write the prompt in UTF-8") from error


def _read(source: TextIO, name: str) -> str:
    """The whole text of something that may have no end."""
    text = source.read(TEXT_LIMIT + 1)
    if len(text) > TEXT_LIMIT:
        raise InputError(f"{name} holds more than {TEXT_LIMIT / 1e6:.0f} MB of text; split it")
    return text


def _read_file(file: Path) -> list[Request]:
    try:
        if str(file) == "-":
            text = _from_stdin()
        else:
            check_no_fifo("--prompts", file)
            with file.open(encoding="utf-8-sig") as source:  # "-sig": for Windows' editors
                text = _read(source, f"--prompts {file}")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--prompts {file}: cannot be read ({reason})") from error
    # Not splitlines(): it also splits at U+2028, which JSON texts may hold.
    lines = enumerate(text.split("\n"), 1)
    rows = [_read_row(line, f"{file}, line {n}") for n, line in lines if line.strip()]
    if not rows:
        raise InputError(f"--prompts {file}: the file holds no prompts")
    return rows


def _read_row(line: str, where: str) -> Request:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); each line holds one object") from error
    row = row if isinstance(row, dict) else {}
    texts = [row.pop(key) for key, kind in _PROMPTS.items() if isinstance(row.get(key), kind)]
    if len(texts) != 1 or row.keys() & _PROMPTS.keys():
        raise InputError(f'{where}: must be {{"prompt": "..."}} or {{"messages": [...]}}')
    row_id, settings = row.pop("id", None), row.pop("settings", {})
    return Request(texts[0], row_id, _row_options(row, settings, where), where)


def _row_options(row: dict[str, Any], settings: Any, where: str) -> dict[str, Any]:
    """The options of a row: its own keys, and the settings of a conversation that `/save` of `mygpt chat` wrote."""
    if not isinstance(settings, dict):
        raise InputError(f"{where}: 'settings' must be an object, it is {settings!r}")
    # A row is no conversation: what only a chat has does nothing here.
    of_chat = {f.name for f in fields(ChatOptions)} - set(ROW_OPTIONS)
    options = {name: value for name, value in settings.items() if name not in of_chat} | row
    if unknown := options.keys() - set(ROW_OPTIONS):
        known = ("prompt", "messages", "id", *ROW_OPTIONS)
        hint = did_you_mean(min(unknown).replace("-", "_"), known) or f"; there are {', '.join(known)}"
        raise InputError(f"{where}: there is no key {min(unknown)!r}{hint}")
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    try:
        for kind, names in ((SamplingOptions, _OF_SAMPLING), (GenerateOptions, _OF_ROW)):
            values = {name: given[name] for name in names if name in given}
            check_types(kind, values)
            kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('--')}") from error
    return given

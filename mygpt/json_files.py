"""Read the small files of a repository, most of them JSON: regular files only, of a bounded size."""

import json
import re
import stat
from pathlib import Path
from typing import Any

from mygpt.errors import InputError

MAX_BYTES = 256 * 2**20  # the largest tokenizer.json and index files have some 30 MB
_LONE_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")  # or the first half of a pair


def is_file(path: Path) -> bool:
    """Whether there is a regular file; False where there is nothing.

    Raises:
        InputError: a folder, a pipe or a device is in its place, or its folder cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is no regular file: put the repository's own file in its place")
    return True


def read_bytes(path: Path) -> bytes | None:
    """The content of a file; None where there is none.

    Raises:
        InputError: it is no regular file, larger than `MAX_BYTES`, or cannot be read.
    """
    if not is_file(path):
        return None
    if path.stat().st_size > MAX_BYTES:
        raise InputError(
            f"{path} is larger than {MAX_BYTES // 2**20} MB, as no such file is: download it again"
        )
    return read_start(path)


def read_start(path: Path, n_bytes: int = -1) -> bytes:
    """The first bytes of a file, by default all.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): make it readable") from error


def read_text(path: Path) -> str | None:
    """The text of a file in UTF-8; None where there is none.

    Raises:
        InputError: it is something else than a text, or `read_bytes` refuses it.
    """
    content = read_bytes(path)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: download it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; {} where there is no such file.

    Raises:
        InputError: the file is something else.
    """
    encoded = read_bytes(path)
    if encoded is None:
        return {}
    try:
        text = encoded.decode()
        content = json.loads(text)
        if _LONE_SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # fails at a half of a pair alone
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object: download it again")
    return content

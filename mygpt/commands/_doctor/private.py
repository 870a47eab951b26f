"""Keep names of people and machines out of what is pasted into a bug report."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mygpt.messages import HIDDEN_TOKEN, TOKEN


def private(value: Any) -> Any:
    """The value with `~` for the home folder in all its texts, and without names, passwords and tokens."""
    return _cleaned(value, [*_substitutions()])


def _cleaned(value: Any, substitutions: list[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(part, substitutions) for key, part in value.items()}
    if isinstance(value, list):
        return [_cleaned(part, substitutions) for part in value]
    if isinstance(value, str):
        for pattern, instead in substitutions:
            value = pattern.sub(instead, value)
    return value


def _substitutions() -> Iterator[tuple[re.Pattern[str], str]]:
    yield re.compile(r"//[^/@\s]*@"), "//"  # the password of an address
    yield TOKEN, HIDDEN_TOKEN
    homes = {os.path.expanduser("~")}  # noqa: PTH111, Path.home() raises where there is none
    with contextlib.suppress(Exception):
        homes.add(str(Path.home().resolve()))
    for home in sorted(homes - {"~", "/"}, key=len, reverse=True):
        yield re.compile(rf"(?<![\w.]){re.escape(home)}(?!\w)"), "~"
    user = host = ""
    with contextlib.suppress(Exception):  # no such user, as in some containers
        user = getpass.getuser()
    if user not in ("", "root"):  # as a part of a path: the name may be any word
        yield re.compile(rf"(?<=[\\/]){re.escape(user)}(?=[\\/]|$)"), "<user>"
    with contextlib.suppress(Exception):
        host = platform.node().split(".")[0]
    if len(host) > 2 and host != "localhost":
        yield re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])"), "<host>"

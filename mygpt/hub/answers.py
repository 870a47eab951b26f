"""What the Hub answers, checked before huggingface_hub acts on it: it takes names of files from headers.

The Hub may be any server, for HF_ENDPOINT names it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mygpt.checkpoint.disk import gigabytes
from mygpt.errors import InputError
from mygpt.hub.errors import hub_url

# Of an answer that is no file: a listing of 100,000 files has 8 MB.
_MOST_BYTES = 32 * 10**6
_MOST_UNKNOWN_BYTES = 10**9  # of a file whose size was not told before
_NAME = re.compile(r"[^./\\:\s\x00-\x1f][^/\\:\x00-\x1f]{0,127}")


def check_name(what: str, value: object) -> None:
    """Check that a text of the Hub can be the name of a file or folder.

    Raises:
        InputError: it would name a path elsewhere, or none.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InputError(f"{hub_url()} names the {what} {value!r}, no plain name; do not trust this Hub")


@contextmanager
def checked_answers() -> Iterator[None]:
    """Check all that huggingface_hub receives in here: headers that become names, the length of what follows.

    Raises:
        InputError: the Hub, or a server that it redirects to, is not to be trusted.
    """
    from huggingface_hub import get_session

    session, checks = get_session(), _Checks()
    before = session.event_hooks
    session.event_hooks = {
        "request": [*before["request"], _ask_for_plain_bytes],
        "response": [*before["response"], checks.check],
    }
    try:
        yield
    finally:
        session.event_hooks = before


def _ask_for_plain_bytes(request: Any) -> None:
    request.headers["Accept-Encoding"] = "identity"  # a few compressed bytes may stand for gigabytes


class _Checks:
    """Of one download, in which a file's size is asked for (HEAD) before the file itself."""

    def __init__(self) -> None:
        self._most_bytes = _MOST_BYTES

    def check(self, response: Any) -> None:
        """Called with each answer when its headers have come; those are httpx's."""
        headers = response.headers
        if response.request.method == "HEAD":
            if etag := headers.get("X-Linked-ETag") or headers.get("ETag"):
                check_name("ETag", etag.removeprefix("W/").strip('"'))
            if "X-Repo-Commit" in headers:
                check_name("commit", headers["X-Repo-Commit"])
            told = headers.get("X-Linked-Size") or headers.get("Content-Length", "")
            self._most_bytes = max(int(told), _MOST_BYTES) if told.isdecimal() else _MOST_UNKNOWN_BYTES
            return
        encoding = headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise InputError(
                f"{hub_url()} answers in the encoding {encoding!r}, which it was asked not to do"
            )
        response.stream = _bounded(response.stream, self._most_bytes)


def _bounded(stream: Any, most_bytes: int) -> Any:
    """The bytes of an answer, with an InputError where there are more."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    http = importlib.import_module(HTTPError.__module__.partition(".")[0])  # httpx or httpx2

    class Bounded(http.SyncByteStream):  # type: ignore[name-defined, misc]
        def __iter__(self) -> Iterator[bytes]:
            received = 0
            for chunk in stream:
                received += len(chunk)
                if received > most_bytes:
                    raise InputError(
                        f"{hub_url()} sends more than the {gigabytes(most_bytes)} that were to come: it is broken, "
                        "or not to be trusted"
                    )
                yield chunk

        def close(self) -> None:
            stream.close()

    return Bounded()

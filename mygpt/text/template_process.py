"""Runs a chat template in a child process, which limits the time, memory and text that it takes.

A template is code of the repository's author. Jinja's sandbox keeps it from files and from Python's objects, but not
from loops without end.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mygpt.errors import RunError
from mygpt.text import template_worker
from mygpt.text.template_worker import reply_limit, to_line

CPU_S = 10.0  # of compiling, and of each rendering
WALL_S = 60.0  # the same by the clock: the limit where the system has none for CPU time
MEMORY_BYTES = 512 * 2**20  # of the child's address space; 16 times the request's bytes come on top
REPLY_BYTES = 16 * 2**20  # of a rendered text; twice the request's bytes come on top


class TooMuchError(Exception):
    """The template took more time, memory or text than it may."""


class TemplateProcess:
    """One template in a child process, which starts and compiles it in the background.

    A child that was ended by a limit, or by an exception in the parent such as Ctrl-C, is started anew when it is
    needed next. It ends with this object, and when the parent ends in whatever way. Threads may share it.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._compiled: dict[str, Any] | None = None  # the answer to the first line
        _living.add(self)
        with contextlib.suppress(RunError, TooMuchError), self._lock, self._watched():
            self._start()  # what fails here fails again where it is needed

    def compiled(self) -> dict[str, Any]:
        """`{"variables": the names that the template reads}`, or `{"error": why it is not valid, "kind": "invalid"}`.

        Raises:
            TooMuchError: it reached a limit.
            RunError: the system starts no process.
        """
        with self._lock, self._watched():
            return self._compile()

    def render(self, request: bytes) -> dict[str, Any]:
        """`{"text"}`, or `{"error", "kind"}`: "invalid" as in `compiled`, "refused" by the template, or "failed".

        Args:
            request: the template's variables, as `to_line` writes them.

        Raises:
            TooMuchError: it reached a limit.
            RunError: the system starts no process.
        """
        with self._lock, self._watched():
            compiled = self._compile()
            return compiled if "error" in compiled else self._exchange(request)

    def _compile(self) -> dict[str, Any]:
        if self._child is None:
            self._start()
        if self._compiled is None:
            self._compiled = self._receive(self._first_line())
        return self._compiled

    def _first_line(self) -> bytes:
        limits = {"cpu_s": CPU_S, "memory_bytes": MEMORY_BYTES, "reply_bytes": REPLY_BYTES}
        return to_line({"source": self._source, **limits})

    def _start(self) -> None:
        self._child = _spares.pop() if _spares else _spawn()
        self._send(self._first_line())

    def _exchange(self, request: bytes) -> dict[str, Any]:
        self._send(request)
        return self._receive(request)

    def _send(self, request: bytes) -> None:
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(request)
            self._child.stdin.flush()
        except BrokenPipeError as error:
            raise TooMuchError from error

    def _receive(self, request: bytes) -> dict[str, Any]:
        assert self._child is not None and self._child.stdout is not None
        line = self._child.stdout.readline(reply_limit(request, REPLY_BYTES) + 1)
        if not line.endswith(b"\n"):
            raise TooMuchError
        reply: dict[str, Any] = json.loads(line)
        return reply

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """End the child after a while, and where what is asked of it was not brought to its end."""
        timer = threading.Timer(WALL_S, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        except BaseException:
            self._kill()
            self._close()
            raise
        finally:
            timer.cancel()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._child is not None:
            _end(self._child)
        self._child = self._compiled = None

    def _kill(self) -> None:
        if (child := self._child) is not None:
            child.kill()


def start_spare() -> None:
    """Start a child for the next template. It imports Jinja while this process finds and reads the template."""
    if not _spares:
        with contextlib.suppress(RunError):  # told where a child is needed
            _spares.append(_spawn())


def end_spare() -> None:
    """End the spare child, where there is no template."""
    while _spares:
        child = _spares.pop()
        child.kill()
        _end(child)


def _spawn() -> "subprocess.Popen[bytes]":
    path = [entry for entry in sys.path if Path(entry).is_absolute() and not _is_current_folder(entry)]
    # -I: no module comes from the current folder. A session of its own: Ctrl-C and Ctrl-Z are the parent's.
    command = [sys.executable, "-I", template_worker.__file__, json.dumps(path)]
    # What is preloaded, such as a sanitizer, may reserve more memory than the limit.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise RunError(f"cannot start the process that renders the chat template: {error}") from error


_spares: "list[subprocess.Popen[bytes]]" = []
# Not weakref.finalize: at exit it fails where an object is collected while it goes through its list.
_living: "weakref.WeakSet[TemplateProcess]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    end_spare()
    for process in list(_living):
        process._close()


def _end(child: "subprocess.Popen[bytes]") -> None:
    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(OSError):  # of a child that has ended
        child.stdin.close()  # an idle child ends by this
    try:
        child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()


def _is_current_folder(path: str) -> bool:
    try:
        return Path(path).samefile(os.curdir)
    except OSError:
        return False

"""Failures of `tokenizers`, a library in Rust: its panics are no `Exception`, and are told on standard error too."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

from mygpt.errors import InputError

_STDERR = 2
_lock = threading.Lock()


@contextlib.contextmanager
def refuse_failures(problem: str) -> Iterator[None]:
    """Turn a panic and any other exception of the library into an InputError that begins with `problem`."""
    try:
        yield
    except BaseException as error:
        raise as_input_error(problem, error) from error


def as_input_error(problem: str, error: BaseException) -> InputError:
    """An InputError that begins with `problem`, for a panic or another exception of the library.

    What is neither, such as Ctrl-C, is raised again.
    """
    is_panic = type(error).__name__ == "PanicException"  # pyo3's, which no module exports
    if isinstance(error, InputError | MemoryError) or not (is_panic or isinstance(error, Exception)):
        raise error
    why = str(error).strip().partition("\n")[0]
    return InputError(f"{problem} ({why}): download it again")


@contextlib.contextmanager
def refuse_quietly(problem: str) -> Iterator[None]:
    """The same, and standard error does not tell of the panic.

    Rust writes to descriptor 2, whatever Python does. So a scratch file stands there meanwhile. What else is written to
    it is passed on afterwards, unless there is an error.
    """
    with _lock, refuse_failures(problem), _quiet_stderr():
        yield


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """What is written to standard error comes out at the end; if there is an exception, not at all."""
    try:
        stderr = os.dup(_STDERR)
    except OSError:  # it is closed
        yield
        return
    with _scratch() as scratch:
        os.dup2(scratch.fileno(), _STDERR)
        try:
            yield
            scratch.seek(0)
            with contextlib.suppress(OSError):
                os.write(stderr, scratch.read())
        finally:
            os.dup2(stderr, _STDERR)
            os.close(stderr)


def _scratch() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # there is no folder to write to
        return open(os.devnull, "r+b")  # noqa: PTH123

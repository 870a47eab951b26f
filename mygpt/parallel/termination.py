"""SIGTERM and SIGHUP as an exception: what is half written is removed, and the exit code is 128 + the signal's number.

By default they would end the process at once, without any `finally`.
"""

from __future__ import annotations

import _thread
import os
import signal
import time
from types import FrameType

TIDY_S = 10.0  # at most, from the signal to the end
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

_received: int | None = None


def handle_signals() -> None:
    """Raise SystemExit in the main thread for them; one that is ignored, as under `nohup`, stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def ignore_signals() -> None:
    """Do nothing for them, and for Ctrl-C: the command has ended, and what Python still does takes a moment."""
    for number in (signal.SIGINT, *SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _ignore)


def exit_code() -> int | None:
    """That of a process that was told to end; None if it was not."""
    return None if _received is None else 128 + _received


def _ignore(number: int, frame: FrameType | None) -> None:
    """Python complains of SIG_IGN where the signal has come just before."""


def _end(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    ignore_signals()  # once: a terminal that closes sends several, and what follows tidies up
    _thread.start_new_thread(_give_up, (128 + number,))  # threading has locks, which this thread may hold
    raise SystemExit(128 + number)


def _give_up(code: int) -> None:
    """End the process where a library has swallowed the exception, or asks a terminal that is gone for a key."""
    time.sleep(TIDY_S)
    os._exit(code)

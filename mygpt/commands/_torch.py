"""Imports torch for a command, so that a Ctrl-C meanwhile is not lost."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def import_torch() -> None:
    """Import torch, and numpy before it: torch's C++ code imports numpy too, and swallows what interrupts that."""
    with _interruptible():
        import numpy  # noqa: F401
        import torch  # noqa: F401


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end where Ctrl-C was pressed and something has swallowed it.

    Python itself does where it was about to forget an object, as it does with the lock of each module it imports.
    """
    pressed = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    hook = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if lost.exc_type is KeyboardInterrupt else hook(lost)
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook
    if pressed:
        raise KeyboardInterrupt

"""Sees to it that the ranks of a command end together, and that one line says why."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch.distributed as dist

from mygpt.errors import RunError
from mygpt.kernels import LostRankError
from mygpt.parallel.rank_env import PARENT, PATIENCE

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

_TICK = 0.1  # seconds


class Watch(threading.Thread):
    """Ends this rank when another has ended before its time.

    Who knows what happened tells it: a rank that fails by itself, or this, of one that was killed.
    """

    def __init__(self, first_rank: int, children: Sequence[subprocess.Popen[Any]]) -> None:
        """Watch the `children`, which may be started later.

        Args:
            first_rank: that of this node's first process, which starts the others.
            children: ranks that this one starts, in order.
        """
        super().__init__(daemon=True, name="mygpt-watch")
        self.first_rank = first_rank
        self.children = children
        os.environ[PARENT] = str(os.getpid())
        self.starting = True
        self.dismissed = False  # the others have been told that it is over
        self.ended = False
        self.signals, self._wake = socket.socketpair()
        self._terminal = _terminal_settings()

    def run(self) -> None:
        """Look at the others several times a second."""
        while not self.ended:
            self._wait()
            for number, child in enumerate(tuple(self.children), self.first_rank + 1):
                if child.poll() and not self.ended:
                    self._child_failed(number, child.returncode)

    def _wait(self) -> None:
        if not self.starting:
            time.sleep(_TICK)
        elif select.select([self.signals], [], [], _TICK)[0] and signal.SIGINT in self.signals.recv(64):
            self._exit(None, 130)

    @contextmanager
    def start_up(self) -> Iterator[None]:
        """While the ranks meet, which Python cannot interrupt: Ctrl-C ends this one all the same."""
        self._wake.setblocking(False)
        main = threading.current_thread() is threading.main_thread()
        before = signal.set_wakeup_fd(self._wake.fileno()) if main else -1
        try:
            yield
        finally:
            if main:
                signal.set_wakeup_fd(before)
            self.starting = False

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Where a connection breaks, leave it to the watch of the node that lost a rank to say which, and why.

        Raises:
            RunError: it was on another machine.
        """
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError | LostRankError) and "gloo" not in str(error):
                raise
            time.sleep(PATIENCE)
            raise RunError(
                f"rank {os.environ.get('RANK', self.first_rank)} lost the connection to another rank; "
                "that one's own output says why"
            ) from error

    def _child_failed(self, number: int, code: int) -> NoReturn:
        if code in (-signal.SIGINT, 130):
            self._exit(None, 130)
        if code > 0:
            self._exit(None, 2 if code == 2 else 1)  # it has told why
        hint = " (as the system does when memory runs out)" if code == -signal.SIGKILL else ""
        self._exit(f"rank {number} was killed by {signal.Signals(-code).name}{hint}")

    def _exit(self, why: str | None, code: int = 1) -> NoReturn:
        self.kill()
        if self._terminal is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._terminal)
        if why is not None:
            print(f"error: {why}; the other ranks were ended", file=sys.stderr, flush=True)
        os._exit(code)

    def end(self) -> None:
        """This rank ends, and so those that it started: by themselves where they were told."""
        self.ended = True
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        deadline = time.monotonic() + (5 if self.dismissed else 0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for child in self.children:
                child.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End the ranks that this one started."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()


def _terminal_settings() -> list[Any] | None:
    """Those of standard input: a line editor that is ended from outside leaves its own."""
    try:
        return termios.tcgetattr(0) if termios is not None else None
    except (OSError, termios.error):  # no terminal
        return None

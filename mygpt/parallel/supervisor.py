"""Makes the ranks of a command end together, with one line that says why."""

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
from mygpt.messages import tell
from mygpt.parallel import termination
from mygpt.parallel.rank_env import PARENT_PID_VARIABLE, REPORT_DELAY_S

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

_POLL_INTERVAL_S = 0.1


class Supervisor(threading.Thread):
    """Ends this rank when a rank that it started has failed.

    A rank that fails by itself reports its error. The supervisor reports a rank that was killed.
    """

    def __init__(self, first_rank: int, children: Sequence[subprocess.Popen[Any]]) -> None:
        """Supervise the `children`, which may be started later.

        Args:
            first_rank: of this node's first process, which starts the others.
            children: the ranks that this one starts, in order.
        """
        super().__init__(daemon=True, name="mygpt-supervisor")
        self.first_rank = first_rank
        self.children = children
        os.environ[PARENT_PID_VARIABLE] = str(os.getpid())
        self.starting = True
        self.workers_told_to_end = False
        self.stopped = False
        self._signals, self._wakeup = socket.socketpair()
        self._terminal = _terminal_settings()

    def run(self) -> None:
        """Poll the children until this rank ends."""
        while not self.stopped:
            self._wait()
            for rank, child in enumerate(tuple(self.children), self.first_rank + 1):
                if child.poll() and not self.stopped:
                    self._child_failed(rank, child.returncode)

    def _wait(self) -> None:
        if not self.starting:
            time.sleep(_POLL_INTERVAL_S)
            return
        readable, _, _ = select.select([self._signals], [], [], _POLL_INTERVAL_S)
        for number in self._signals.recv(64) if readable else b"":
            if number in (signal.SIGINT, *termination.SIGNALS):
                self._exit(None, 128 + number)

    @contextmanager
    def interruptible_start(self) -> Iterator[None]:
        """Let signals end this rank while it waits for the others to connect, which Python cannot interrupt."""
        self._wakeup.setblocking(False)
        main = threading.current_thread() is threading.main_thread()
        before = signal.set_wakeup_fd(self._wakeup.fileno()) if main else -1
        try:
            yield
        finally:
            if main:
                signal.set_wakeup_fd(before)
            self.starting = False

    @contextmanager
    def explain_lost_connection(self) -> Iterator[None]:
        """Where a connection breaks, give the node that lost a rank time to say which one and why.

        Raises:
            RunError: the rank was on another node.
        """
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError | LostRankError) and "gloo" not in str(error):
                raise
            time.sleep(REPORT_DELAY_S)
            raise RunError(
                f"rank {os.environ.get('RANK', self.first_rank)} lost the connection to another rank; "
                "that one's own output says why"
            ) from error

    def _child_failed(self, rank: int, code: int) -> NoReturn:
        if code in (-signal.SIGINT, 130):
            self._exit(None, 130)
        if code > 0:  # it has reported its error
            self._exit(None, 2 if code == 2 else 1)
        if -code in termination.SIGNALS:  # perhaps sent to all ranks: then this one ends by itself
            time.sleep(REPORT_DELAY_S)
            if own := termination.exit_code():
                self._exit(None, own)
        hint = " (as the system does when memory runs out)" if code == -signal.SIGKILL else ""
        self._exit(f"rank {rank} was killed by {signal.Signals(-code).name}{hint}")

    def _exit(self, reason: str | None, code: int = 1) -> NoReturn:
        try:
            self.kill_children()
            if self._terminal is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, self._terminal)
            if sys.stderr.isatty():
                # The cursor, which a progress bar hides; what follows begins a line, after "^C".
                print("\x1b[?25h", end="\n" if code == 130 else "", file=sys.stderr, flush=True)
            if reason is not None:
                tell(f"error: {reason}; the other ranks were ended")
        finally:  # also where the terminal is gone
            os._exit(code)

    def stop(self) -> None:
        """End the children with this rank: by themselves where they were told to, else by a signal."""
        self.stopped = True
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        deadline = time.monotonic() + (5 if self.workers_told_to_end else 0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for child in self.children:
                child.wait(max(0.0, deadline - time.monotonic()))
        self.kill_children()

    def kill_children(self) -> None:
        """End the ranks that this one started, by a signal."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()


def _terminal_settings() -> list[Any] | None:
    """The settings of standard input's terminal, which a line editor changes and a sudden end would leave so."""
    try:
        return termios.tcgetattr(0) if termios is not None else None
    except (OSError, termios.error):  # no terminal
        return None

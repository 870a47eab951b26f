"""Where the nodes of a command meet: the first one waits there, and the others come."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch.distributed as dist

from mygpt.errors import RunError

NOTICE_S = 10.0  # after which a node says that it waits for another
_RETRY_S = 0.5


@dataclass(frozen=True)
class MeetingPoint:
    """Where this node, number `node` of several, meets the others: at the first one's address and port."""

    num_nodes: int
    node: int
    address: str
    port: int

    @property
    def missing(self) -> str:
        """Whom this node waits for."""
        if self.node > 0:
            return f"node 0 of {self.num_nodes}"
        return "node 1 of 2" if self.num_nodes == 2 else f"the other {self.num_nodes - 1} nodes"

    @property
    def where(self) -> str:
        """The place, and the variables that name it."""
        return f"{self.address}:{self.port} (MASTER_ADDR, MASTER_PORT)"

    @contextmanager
    def wait(self, timeout_s: float, *, announce: bool) -> Iterator[None]:
        """Wait until the first node can be reached; within, torch makes it wait for the others.

        With `announce`, a line says so when it takes long.

        Raises:
            RunError: a node has not come in time.
        """
        notice = threading.Timer(NOTICE_S, self._announce)
        notice.daemon = True
        if announce:
            notice.start()
        try:
            if self.node > 0:
                self._reach_first_node(timeout_s)
            yield
        except (dist.DistError, TimeoutError) as error:
            if "timed out" not in str(error).lower():
                raise
            raise RunError(
                f"{self.missing} did not come to {self.where} within {timeout_s:.0f} s: start the same command on "
                "each node, with the same address and port and its own NODE_RANK"
            ) from error
        finally:
            notice.cancel()

    def _reach_first_node(self, timeout_s: float) -> None:
        """By a connection of our own: torch would fill the screen when it has waited in vain."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=5).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError("timed out") from error
                time.sleep(_RETRY_S)
            else:
                return

    def _announce(self) -> None:
        with suppress(OSError, ValueError):  # standard error is gone
            print(f"waiting for {self.missing} at {self.where}", file=sys.stderr, flush=True)

"""Where the ranks of a command meet: on one machine, and over several nodes, of which the first waits."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.distributed as dist

from mygpt.errors import RunError
from mygpt.messages import tell

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

NOTICE_S = 10.0  # after which a node says that it waits for another
_RETRY_S = 0.5
_LOOPBACK = "127.0.0.1"


def meet_on_this_machine(environment: ClusterEnvironment, *, first: bool) -> object:
    """Let ranks that are all on one machine use no address that others reach; torch's own store listens on all.

    Args:
        environment: Fabric's, which says where they meet. torchrun has a store of its own.
        first: whether this is rank 0, which makes the store.

    Returns:
        Rank 0's store, which the process group takes by its port, if it is still there; None where there is none.

    Raises:
        RunError: the port is in use.
    """
    interface = "lo0" if sys.platform == "darwin" else "lo"
    if sys.platform == "win32" or interface not in (name for _, name in socket.if_nameindex()):
        return None
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, interface)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    os.environ["MASTER_ADDR"] = _LOOPBACK
    if not first or environment.main_address != _LOOPBACK:
        return None
    port = environment.main_port
    try:
        listener = socket.create_server((_LOOPBACK, port))
    except OSError as error:
        raise RunError(
            f"cannot listen on {_LOOPBACK}:{port} ({os.strerror(error.errno or 0)}): unset MASTER_PORT"
        ) from error
    return dist.TCPStore(  # type: ignore[attr-defined]
        _LOOPBACK,
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
    )


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
            tell(f"waiting for {self.missing} at {self.where}")

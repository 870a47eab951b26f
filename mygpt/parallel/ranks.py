"""Processes that run one model together: started by Fabric, watched so that none outlives another."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mygpt.parallel import is_follower

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

PATIENCE = 3.0  # seconds that rank 0 gets to say itself what went wrong
_FOREVER = timedelta(days=365)  # ranks wait for a user's next message


@dataclass(frozen=True)
class Ranks:
    """This process among its like.

    Attributes:
        rank: this one's number; rank 0 decodes and prints, the others compute what it asks for.
        world_size: how many there are, over all nodes.
        device: this rank's.
        control: the group for messages between their hosts.
        watch: over the other ranks of this node.
        mesh: all ranks in one row.
    """

    rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup
    watch: Watch
    mesh: DeviceMesh


def launch(accelerator: str, devices: int, num_nodes: int) -> Ranks:
    """Start the ranks, or join those that torchrun or SLURM started (as Fabric understands their environments).

    Fabric runs this very command again for each further device of the node, so what comes before is run by all.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    strategy = ModelParallelStrategy(
        lambda model, mesh: model,
        data_parallel_size=devices * num_nodes,
        tensor_parallel_size=1,
        timeout=_FOREVER,
    )
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy)
    children: list[subprocess.Popen[bytes]] = getattr(strategy.launcher, "procs", [])
    if is_follower():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what Ctrl-C means
    fabric.launch()
    _silence_observer()
    if fabric.global_rank > 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    watch = Watch(fabric.global_rank, children)
    watch.start()
    atexit.register(watch.end)
    gloo = dist.get_backend() == "gloo"
    control = dist.group.WORLD if gloo else dist.new_group(backend="gloo", timeout=_FOREVER)
    assert control is not None
    return Ranks(
        fabric.global_rank,
        fabric.world_size,
        fabric.device,
        control,
        watch,
        strategy.device_mesh["data_parallel"],
    )


def _silence_observer() -> None:
    """Fabric's own watch over its children kills without a word, and looks every 5 seconds only."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._finished = True  # type: ignore[attr-defined]


class Watch(threading.Thread):
    """Ends this rank when another has ended before its time, and says which and why."""

    def __init__(self, rank: int, children: Sequence[subprocess.Popen[Any]]) -> None:
        super().__init__(daemon=True, name="mygpt-watch")
        self.rank = rank
        self.children = children
        self.parent = os.getppid()
        self.ended = False

    def run(self) -> None:
        """Look at the others a few times a second."""
        while not self.ended:
            time.sleep(0.2)
            if os.getppid() != self.parent and self.rank > 0:
                os._exit(1)  # rank 0 says why it went, where it can
            for number, child in enumerate(self.children, 1):
                if not self.ended and child.poll() is not None:
                    self._fail(number, child.returncode)

    def _fail(self, number: int, code: int) -> None:
        if code > 0:
            time.sleep(PATIENCE)  # most often rank 0 met the same error
        if self.ended:
            return
        why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        print(f"error: rank {number} {why}; the other ranks were ended", file=sys.stderr, flush=True)
        self.kill()
        os._exit(1)

    def end(self) -> None:
        """This rank ends: the others had their message, or will never have it."""
        self.ended = True
        deadline = time.monotonic() + 5
        with contextlib.suppress(subprocess.TimeoutExpired):
            for child in self.children:
                child.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End the ranks that this one started."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()

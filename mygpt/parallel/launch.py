"""Processes that run one model together: started by Fabric, watched so that none outlives another."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from mygpt import kernels
from mygpt.errors import InputError
from mygpt.parallel.rank_env import RANK_VARIABLES, begin_to_follow
from mygpt.parallel.supervisor import Watch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_FOREVER = timedelta(days=365)  # ranks wait for a user's next message
_MEETING = timedelta(hours=2)  # and for each other, while one of them may be downloading


@dataclass(frozen=True)
class Ranks:
    """This process among its like.

    Attributes:
        rank: this one's number; rank 0 decodes and prints, the others compute what it asks for.
        world_size: how many there are, over all nodes.
        device: this rank's.
        one_machine: whether all are on this one.
        control: the group for messages between their hosts.
        watch: over the other ranks of this node.
        mesh: all ranks in one row.
    """

    rank: int
    world_size: int
    device: torch.device
    one_machine: bool
    control: dist.ProcessGroup
    watch: Watch
    mesh: DeviceMesh


def launch(accelerator: str, devices: int, num_nodes: int) -> Ranks:
    """Start the ranks, or join those that torchrun or SLURM started (as Fabric understands their environments).

    Fabric runs this very command again for each further device of the node, so what comes before is run by all.

    Raises:
        InputError: a variable of a launcher's environment, such as LOCAL_RANK, is no number.
    """
    for name in RANK_VARIABLES:
        if not os.environ.get(name, "0").isdecimal():
            raise InputError(f"{name}={os.environ[name]} in the environment is no number; unset it")
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    strategy = ModelParallelStrategy(
        lambda model, mesh: model,
        data_parallel_size=devices * num_nodes,
        tensor_parallel_size=1,
        timeout=_MEETING,
    )
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy)
    children: list[subprocess.Popen[bytes]] = getattr(strategy.launcher, "procs", [])  # filled by launch()
    first_rank = strategy.node_rank * devices
    if first_rank + strategy.local_rank > 0:
        begin_to_follow()
    watch = Watch(first_rank, children)
    atexit.register(watch.end)
    watch.start()
    with _without_observer(), watch.start_up():
        fabric.launch()
    os.environ["RANK"] = str(fabric.global_rank)  # what an error message names
    if fabric.global_rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    control = dist.new_group(backend="gloo", timeout=_FOREVER)
    assert control is not None
    return Ranks(
        fabric.global_rank,
        fabric.world_size,
        fabric.device,
        num_nodes == 1,
        control,
        watch,
        strategy.device_mesh["data_parallel"],
    )


def make_shared_memory_group(ranks: Ranks) -> kernels.SharedMemoryGroup | None:
    """Memory that the ranks share for their sums; None, on all of them, where one of them cannot have it."""
    if not ranks.one_machine or ranks.device.type != "cpu":
        return None
    own = _shared_file(kernels.SharedMemoryGroup.nbytes(ranks.world_size)) if ranks.rank == 0 else -1
    where = torch.tensor([os.getpid(), own])
    dist.broadcast(where, 0, group=ranks.control)
    process, number = where.tolist()
    file = -1
    with suppress(OSError):
        if number >= 0 and kernels.prepare():
            file = os.open(f"/proc/{process}/fd/{number}", os.O_RDWR)
    all_have = torch.tensor(int(file >= 0))
    dist.all_reduce(all_have, dist.ReduceOp.PRODUCT, group=ranks.control)
    try:
        return kernels.SharedMemoryGroup(ranks.rank, ranks.world_size, file) if all_have else None
    finally:
        for opened in (own, file):
            if opened >= 0:
                os.close(opened)


def _shared_file(nbytes: int) -> int:
    """One without a name, so that nothing is left behind; -1 where the system has none."""
    try:
        file = os.memfd_create("mygpt")
    except (AttributeError, OSError):
        return -1
    os.ftruncate(file, nbytes)
    return file


@contextmanager
def _without_observer() -> Iterator[None]:
    """Fabric's own watch over its children would kill this process without a word."""
    from lightning.fabric.strategies.launchers import subprocess_script

    observe = subprocess_script._launch_process_observer
    subprocess_script._launch_process_observer = lambda child_processes: None
    try:
        yield
    finally:
        subprocess_script._launch_process_observer = observe

"""Processes that run one model together: started by Fabric, supervised so that none outlives another."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mygpt import kernels
from mygpt.errors import InputError
from mygpt.parallel.meeting import MeetingPoint, meet_on_this_machine
from mygpt.parallel.rank_env import RANK_VARIABLES, TASK_VARIABLE, become_worker
from mygpt.parallel.supervisor import Supervisor

if TYPE_CHECKING:
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.device_mesh import DeviceMesh

_MESSAGE_TIMEOUT = timedelta(days=365)  # workers wait for a user's next message
_CONNECT_TIMEOUT = timedelta(hours=2)  # ranks wait for one that may be downloading


@dataclass(frozen=True)
class RankGroup:
    """The processes that run one model, as one of them sees them.

    Attributes:
        rank: this process's rank; rank 0 decodes and prints, the others compute what it asks for.
        world_size: the number of ranks, over all nodes.
        device: this rank's device.
        one_machine: whether all ranks are on this machine.
        control: the process group for messages in host memory.
        supervisor: of the ranks that this one started.
        mesh: all ranks, in one dimension.
    """

    rank: int
    world_size: int
    device: torch.device
    one_machine: bool
    control: dist.ProcessGroup
    supervisor: Supervisor
    mesh: DeviceMesh


def launch(
    accelerator: str, devices: int, num_nodes: int, task: Mapping[str, Any] | None = None
) -> RankGroup:
    """Start the ranks, or join those that torchrun or SLURM started (as Fabric understands their environments).

    Args:
        accelerator: cpu or cuda.
        devices: of each node.
        num_nodes: how many machines there are.
        task: what `mygpt.loading.worker` is to do in each rank that is started here. Without one, the ranks run this
            process's own script from its beginning, as those do that torchrun and SLURM start.

    Raises:
        InputError: a variable of a launcher's environment, such as LOCAL_RANK, is no number.
        RunError: a node has not come in time, or the port is in use.
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
        timeout=_CONNECT_TIMEOUT,
    )
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy)
    children: list[subprocess.Popen[bytes]] = getattr(strategy.launcher, "procs", [])  # filled by launch()
    first_rank = strategy.node_rank * devices
    if first_rank + strategy.local_rank > 0:
        become_worker()
    store = None
    if num_nodes == 1 and strategy.cluster_environment is not None:
        store = meet_on_this_machine(strategy.cluster_environment, first=strategy.local_rank == 0)
    supervisor = Supervisor(first_rank, children)
    atexit.register(supervisor.stop)
    supervisor.start()
    try:
        with _own_children(task), supervisor.interruptible_start(), _other_nodes(strategy, num_nodes):
            fabric.launch()
    finally:
        os.environ["RANK"] = str(first_rank + strategy.local_rank)  # for error messages
    if fabric.global_rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    del store  # the process group has it by now
    control = dist.new_group(backend="gloo", timeout=_MESSAGE_TIMEOUT)
    assert control is not None
    return RankGroup(
        fabric.global_rank,
        fabric.world_size,
        fabric.device,
        num_nodes == 1,
        control,
        supervisor,
        strategy.device_mesh["data_parallel"],
    )


def _other_nodes(strategy: ModelParallelStrategy, num_nodes: int) -> AbstractContextManager[None]:
    """Waits for the other nodes, where there are any; the first rank of each node says so."""
    environment = strategy.cluster_environment
    if num_nodes == 1 or environment is None:
        return nullcontext()
    point = MeetingPoint(num_nodes, strategy.node_rank, environment.main_address, environment.main_port)
    return point.wait(_CONNECT_TIMEOUT.total_seconds(), announce=strategy.local_rank == 0)


def make_shared_memory_group(ranks: RankGroup) -> kernels.SharedMemoryGroup | None:
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
def _own_children(task: Mapping[str, Any] | None) -> Iterator[None]:
    """Fabric's children get the task, and no observer: Fabric's own would kill this process without a message."""
    from lightning.fabric.strategies.launchers import subprocess_script

    changes: dict[str, Any] = {"_launch_process_observer": lambda child_processes: None}
    if task is not None:
        changes |= {"_basic_subprocess_cmd": _worker_command, "_HYDRA_AVAILABLE": False}
        os.environ[TASK_VARIABLE] = json.dumps(task)  # not an argument: it may hold a token
    before = {name: getattr(subprocess_script, name) for name in changes}
    for name, value in changes.items():
        setattr(subprocess_script, name, value)
    try:
        yield
    finally:
        os.environ.pop(TASK_VARIABLE, None)
        for name, value in before.items():
            setattr(subprocess_script, name, value)


def _worker_command() -> list[str]:
    """Runs `main` without a command. Until it has this process's path, it would import from the current folder."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from mygpt.__main__ import main; sys.exit(main([]))"
    return [sys.executable, "-c", code]

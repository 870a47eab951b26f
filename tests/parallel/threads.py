"""Ranks as threads of this process, which meet at a barrier: they compute what processes would, and start at once."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from mygpt import LLM
from mygpt.checkpoint.open import open_checkpoint
from mygpt.families import read_config
from mygpt.loading.build import build
from mygpt.loading.load import LoadedModel
from mygpt.options import LoadOptions
from mygpt.parallel.collectives import Collectives
from mygpt.parallel.message_bus import MessageBus
from mygpt.parallel.placement import Placement
from mygpt.parallel.remote_model import RemoteModel, run_worker

CPU = torch.device("cpu")
PATIENCE_S = 60.0


class Meeting:
    """Where so many ranks hand each other tensors and messages."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=PATIENCE_S)
        self.brought = [torch.empty(0)] * size
        self.messages: list[Queue[str]] = [Queue() for _ in range(size)]


class ThreadCollectives(Collectives):
    """The sums and the gathering of one of the threads."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__()
        self.meeting = meeting
        self.rank = rank

    def all_reduce(self, x: Tensor) -> Tensor:
        return self._meet(x, lambda parts: torch.stack(parts).sum(0))

    def gather(self, x: Tensor) -> list[Tensor]:
        return self._meet(x, lambda parts: [part.clone() for part in parts] if self.rank == 0 else [])

    def _meet(self, x: Tensor, use: Callable[[list[Tensor]], Any]) -> Any:
        self.meeting.brought[self.rank] = x
        self.meeting.barrier.wait()
        used = use(self.meeting.brought)
        self.meeting.barrier.wait()  # nobody changes what another still reads
        return used


class ThreadBus(MessageBus):
    """Messages from the first thread to the others."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting = meeting
        self.rank = rank
        supervisor = SimpleNamespace(
            explain_lost_connection=nullcontext,
            workers_told_to_end=False,
            kill_children=meeting.barrier.abort,
        )
        self.ranks: Any = SimpleNamespace(device=CPU, supervisor=supervisor)

    def send(self, *message: Any) -> None:
        for queue in self.meeting.messages[1:]:
            queue.put(json.dumps(message))

    def receive(self) -> list[Any]:
        message: list[Any] = json.loads(self.meeting.messages[self.rank].get(timeout=PATIENCE_S))
        return message


@contextmanager
def on_threads(folder: Path, devices: int, **options: Any) -> Iterator[LLM]:
    """The model of a folder with its matrices shared out over threads."""
    meeting, names = Meeting(devices), tuple(f"cpu:{rank}" for rank in range(devices))
    shards = []
    for rank in range(devices):
        ranks: Any = SimpleNamespace(rank=rank, world_size=devices, device=CPU, one_machine=False)
        placement = Placement("tensor", (CPU,), names, ranks)
        own = ThreadCollectives(meeting, rank)
        with patch("mygpt.parallel.placement.Collectives", return_value=own):
            checkpoint = open_checkpoint(folder)
            architecture = read_config(checkpoint.config)
            shards.append(build(checkpoint, *architecture, placement, LoadOptions(**options)))
    failures: list[Exception] = []

    def run(rank: int) -> None:
        try:
            run_worker(shards[rank][0], ThreadBus(meeting, rank))
        except Exception as error:
            failures.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(1, devices)]
    for thread in threads:
        thread.start()
    remote = RemoteModel(shards[0][0], ThreadBus(meeting, 0))
    try:
        yield LLM(LoadedModel(remote, None, frozenset(), names, shards[0][1], "tensor", load_s=0.0))
    except threading.BrokenBarrierError:
        raise (failures or [RuntimeError("the threads lost each other")])[0] from None
    finally:
        remote.close()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not failures

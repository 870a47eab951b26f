"""One model on several ranks. Rank 0 runs the program; the workers repeat each call that it makes to the model.

So a decode loop, a chat or a script is written once, for one process. Each call is a message of `MessageBus`, which
`RemoteModel` or `RemoteCache` sends and a method of `Worker` of the same name handles.
"""

from __future__ import annotations

import atexit
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from mygpt.model.causal_lm import CausalLM
from mygpt.model.config import Config
from mygpt.model.forward_context import ForwardOptions
from mygpt.model.kv_cache import KVCache
from mygpt.model.rope import RotaryEmbedding
from mygpt.parallel.devices import peak_memory_bytes
from mygpt.parallel.launch import RankGroup
from mygpt.parallel.message_bus import MessageBus

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RemoteModel:
    """The model as rank 0 sees it: each call runs on every rank. A `CausalLM`."""

    def __init__(self, model: CausalLM, bus: MessageBus) -> None:
        """`model` is rank 0's part."""
        self.model = model
        self.bus = bus
        self.n_caches = 0
        self.freed_caches: list[int] = []  # their ids; workers free them at the next message
        self.in_step = True  # no call failed halfway, so every worker waits for a message
        self.closed = False
        atexit.register(self.close)

    @property
    def config(self) -> Config:
        """The whole model's."""
        return self.model.config

    @property
    def rope(self) -> RotaryEmbedding:
        """The rotary embedding of the layers without a window."""
        return self.model.rope

    def __call__(
        self, ids: Tensor, cache: KVCache | None = None, **options: Unpack[ForwardOptions]
    ) -> Tensor:
        """As `GPT.forward`."""
        assert cache is None or isinstance(cache, RemoteCache)
        cached = None if cache is None else (cache.id, cache.lengths)
        with self.on_all_ranks("forward", ids.tolist(), cached, options):
            logits: Tensor = self.model(ids, cache, **options)
        return logits

    def allocate_cache(self, batch_size: int, slots: int, device: torch.device | None = None) -> KVCache:
        """An empty cache, on every rank's own device."""
        return RemoteCache(self, batch_size, slots)

    def peak_memory(self) -> list[int]:
        """The most that each rank's device held, in bytes."""
        with self.on_all_ranks("peak_memory"):
            return _gather_peak_memory(self.bus.ranks)

    @contextmanager
    def on_all_ranks(self, name: str, *arguments: Any) -> Iterator[None]:
        """Send a message, then do here what it says. Ctrl-C waits until that is done, so that ranks stay in step.

        Raises:
            RunError: a rank on another node has failed.
        """
        interrupted = []
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True)) if main else None
        self.in_step = False
        try:
            with self.bus.ranks.supervisor.explain_lost_connection():
                freed = self.freed_caches.copy()
                self.bus.send(freed, name, *arguments)
                del self.freed_caches[: len(freed)]
                yield
            self.in_step = True
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
        if interrupted:
            signal.raise_signal(signal.SIGINT)  # to the handler of before

    def close(self) -> None:
        """End the workers."""
        if self.closed:
            return
        self.closed = True
        supervisor = self.bus.ranks.supervisor
        if self.in_step:
            supervisor.workers_told_to_end = True
            self.bus.send([], "end")
        else:
            supervisor.kill_children()


class RemoteCache(KVCache):
    """A cache that every rank has its part of; rank 0's is here, the workers' have the same `id`.

    `lengths` go to the workers with each forward pass. Every other operation that changes the cache is a message.
    """

    def __init__(self, model: RemoteModel, batch_size: int, slots: int) -> None:
        # A cache without sequences takes no memory; it has the shapes of rank 0's part. The device is named because
        # offloaded weights are on another one than keys and values.
        part = model.model.allocate_cache(0, slots, model.bus.ranks.device)
        super().__init__(part.shapes, batch_size, part.slots, part.devices, part.dtype, part.most)
        self.model = model
        self.id = model.n_caches
        model.n_caches += 1
        with model.on_all_ranks("allocate_cache", self.id, batch_size, slots):
            pass
        weakref.finalize(self, model.freed_caches.append, self.id)

    def empty_like(self, batch_size: int, slots: int) -> KVCache:
        """An empty cache of the same layers, of another size."""
        return self.model.allocate_cache(batch_size, slots)

    def reserve(self, slots: int) -> None:
        """Have at least so many slots."""
        if slots > self.slots:
            with self.model.on_all_ranks("reserve", self.id, slots):
                super().reserve(slots)

    def copy_rows(self, source: KVCache, rows: Sequence[int]) -> None:
        """Fill every sequence from row `rows[b]` of `source`."""
        assert isinstance(source, RemoteCache)
        with self.model.on_all_ranks("copy_rows", self.id, source.id, list(rows)):
            super().copy_rows(source, rows)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forget all sequences but `rows`."""
        with self.model.on_all_ranks("keep_rows", self.id, list(rows)):
            super().keep_rows(rows)

    def append_rows(self, other: KVCache) -> None:
        """Take the sequences of another cache."""
        assert isinstance(other, RemoteCache)
        with self.model.on_all_ranks("append_rows", self.id, other.id, self.lengths, other.lengths):
            super().append_rows(other)


class Worker:
    """A rank above 0: its part of the model, and its parts of the caches by their ids."""

    def __init__(self, model: CausalLM, bus: MessageBus) -> None:
        self.model = model
        self.bus = bus
        self.caches: dict[int, KVCache] = {}
        self.handlers: dict[str, Callable[..., None]] = {
            "forward": self.forward,
            "allocate_cache": self.allocate_cache,
            "reserve": self.reserve,
            "copy_rows": self.copy_rows,
            "keep_rows": self.keep_rows,
            "append_rows": self.append_rows,
            "peak_memory": self.peak_memory,
        }

    def run(self) -> None:
        """Handle messages until rank 0 ends."""
        while True:
            freed, name, *arguments = self.bus.receive()
            for cache_id in freed:
                del self.caches[cache_id]
            if name == "end":
                return
            self.handlers[name](*arguments)

    def forward(
        self, ids: list[list[int]], cached: tuple[int, list[int]] | None, options: ForwardOptions
    ) -> None:
        """Take part in a forward pass; `cached` is the id and the lengths of its cache."""
        cache = None
        if cached is not None:
            cache_id, lengths = cached
            cache = self.caches[cache_id]
            cache.lengths = lengths
        self.model(torch.tensor(ids), cache, **options)

    def allocate_cache(self, cache_id: int, batch_size: int, slots: int) -> None:
        """Make an empty cache."""
        self.caches[cache_id] = self.model.allocate_cache(batch_size, slots, self.bus.ranks.device)

    def reserve(self, cache_id: int, slots: int) -> None:
        """As `KVCache.reserve`."""
        self.caches[cache_id].reserve(slots)

    def copy_rows(self, cache_id: int, source_id: int, rows: list[int]) -> None:
        """As `KVCache.copy_rows`."""
        self.caches[cache_id].copy_rows(self.caches[source_id], rows)

    def keep_rows(self, cache_id: int, rows: list[int]) -> None:
        """As `KVCache.keep_rows`."""
        self.caches[cache_id].keep_rows(rows)

    def append_rows(self, cache_id: int, other_id: int, lengths: list[int], others: list[int]) -> None:
        """As `KVCache.append_rows`; the lengths are those of the two caches."""
        cache, other = self.caches[cache_id], self.caches[other_id]
        cache.lengths, other.lengths = lengths, others
        cache.append_rows(other)

    def peak_memory(self) -> None:
        """Take part in `RemoteModel.peak_memory`."""
        _gather_peak_memory(self.bus.ranks)


@torch.inference_mode()
def run_worker(model: CausalLM, bus: MessageBus) -> None:
    """Do what rank 0 asks for, with this rank's part of the model, until rank 0 ends.

    Raises:
        RunError: another rank has failed.
    """
    with bus.ranks.supervisor.explain_lost_connection():
        Worker(model, bus).run()


def _gather_peak_memory(ranks: RankGroup) -> list[int]:
    """The most that each rank's device held, in bytes; every rank calls it."""
    peaks = torch.zeros(ranks.world_size, dtype=torch.int64)
    peaks[ranks.rank] = peak_memory_bytes(ranks.device)
    dist.all_reduce(peaks, group=ranks.control)
    return peaks.tolist()

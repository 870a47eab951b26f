"""Rank 0 runs the program; the others follow it, forward pass by forward pass.

Messages are JSON, sent from rank 0 to all by one broadcast on their hosts. So a decode loop, a chat or a script
is written once, for one process, and every rank takes part in each of its forward passes.
"""

from __future__ import annotations

import atexit
import json
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from mygpt.engine.detokenizer import peak_memory_bytes
from mygpt.model.causal_lm import CausalLM
from mygpt.model.config import Config
from mygpt.model.forward_context import ForwardOptions
from mygpt.model.kv_cache import KVCache
from mygpt.model.rope import RotaryEmbedding

if TYPE_CHECKING:
    from typing_extensions import Unpack
from mygpt.parallel.launch import Ranks

HEADER = 8192  # bytes; a message that is no longer takes one broadcast


class Channel:
    """Messages from rank 0 to all others."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def send(self, *message: Any) -> None:
        """Called by rank 0; the others are in `receive`."""
        text = json.dumps(message).encode()
        data = torch.frombuffer(bytearray(len(text).to_bytes(8, "little") + text), dtype=torch.uint8)
        header = torch.zeros(HEADER, dtype=torch.uint8)
        header[: min(HEADER, len(data))] = data[:HEADER]
        dist.broadcast(header, 0, group=self.ranks.control)
        if len(data) > HEADER:
            dist.broadcast(data, 0, group=self.ranks.control)

    def receive(self) -> list[Any]:
        """The next message."""
        data = torch.zeros(HEADER, dtype=torch.uint8)
        dist.broadcast(data, 0, group=self.ranks.control)
        length = 8 + int.from_bytes(bytes(data[:8].tolist()), "little")
        if length > HEADER:
            data = torch.zeros(length, dtype=torch.uint8)
            dist.broadcast(data, 0, group=self.ranks.control)
        message: list[Any] = json.loads(data[8:length].numpy().tobytes())
        return message

    def peak_memory(self) -> list[int]:
        """The most that each rank's device held, in bytes; every rank calls it."""
        peaks = torch.zeros(self.ranks.world_size, dtype=torch.int64)
        peaks[self.ranks.rank] = peak_memory_bytes(self.ranks.device)
        dist.all_reduce(peaks, group=self.ranks.control)
        return peaks.tolist()


class Leader:
    """The model as rank 0's decode loop sees it: each call is every rank's."""

    def __init__(self, model: CausalLM, channel: Channel) -> None:
        self.model = model
        self.channel = channel
        self.freed: list[int] = []  # caches that the others may forget, told with the next message
        self.n_caches = 0
        atexit.register(self.close)
        self.usable = True  # not in the middle of a forward pass that failed
        self.closed = False

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
        held = None
        if cache is not None:
            assert isinstance(cache, MirroredCache)
            held = [cache.number, cache.slots, cache.lengths]
        with self.together("forward", ids.tolist(), held, options):
            logits: Tensor = self.model(ids, cache, **options)
        return logits

    def allocate_cache(self, batch_size: int, slots: int, device: torch.device | None = None) -> KVCache:
        """An empty cache, mirrored on every rank."""
        # On the rank's device: offloaded weights are not where keys and values belong.
        own = self.model.allocate_cache(batch_size, slots, self.channel.ranks.device)
        return MirroredCache(self, own, batch_size, slots)

    def peak_memory(self) -> list[int]:
        """The most that each rank's device held, in bytes."""
        with self.together("memory"):
            return self.channel.peak_memory()

    @contextmanager
    def together(self, *message: Any) -> Iterator[None]:
        """Send a message and do what it says, whole: Ctrl-C waits, or the ranks would lose step."""
        interrupted = []
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True)) if main else None
        self.usable = False
        try:
            with self.channel.ranks.watch.explained():
                self.channel.send(self.freed, *message)
                self.freed.clear()
                yield
            self.usable = True
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
        if interrupted:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Tell the others that it is over."""
        if self.closed:
            return
        self.closed = True
        if self.usable:
            self.channel.ranks.watch.dismissed = True
            self.channel.send(self.freed, "end")
        else:
            self.channel.ranks.watch.kill()


class MirroredCache(KVCache):
    """Rank 0's part of a cache that every rank has, known to them by its number."""

    def __init__(self, leader: Leader, own: KVCache, batch_size: int, slots: int) -> None:
        vars(self).update(vars(own))  # its layers too, so that no memory is taken twice
        self.leader = leader
        self.number = leader.n_caches
        leader.n_caches += 1
        with leader.together("allocate", self.number, batch_size, slots):
            pass
        weakref.finalize(self, leader.freed.append, self.number)

    def empty_like(self, batch_size: int, slots: int) -> KVCache:
        """An empty cache of the same layers, of another size."""
        return self.leader.allocate_cache(batch_size, slots)

    def reserve(self, slots: int) -> None:
        """Have at least so many slots."""
        if slots > self.slots:
            with self.leader.together("reserve", self.number, slots):
                super().reserve(slots)

    def copy_rows(self, source: KVCache, rows: Sequence[int]) -> None:
        """Fill every sequence from row `rows[b]` of `source`."""
        assert isinstance(source, MirroredCache)
        with self.leader.together("copy", self.number, source.number, list(rows)):
            super().copy_rows(source, rows)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forget all sequences but `rows`."""
        with self.leader.together("keep_rows", self.number, list(rows)):
            super().keep_rows(rows)

    def append_rows(self, other: KVCache) -> None:
        """Take the sequences of another cache."""
        assert isinstance(other, MirroredCache)
        held = self.lengths, other.lengths
        with self.leader.together("append_rows", self.number, other.number, *held):
            super().append_rows(other)


@torch.inference_mode()
def follow(model: CausalLM, channel: Channel) -> None:
    """Do what rank 0 does until it ends.

    Raises:
        RunError: another rank has ended before its time.
    """
    with channel.ranks.watch.explained():
        _follow(model, channel)


def _follow(model: CausalLM, channel: Channel) -> None:
    caches: dict[int, KVCache] = {}
    while True:
        freed, kind, *rest = channel.receive()
        for number in freed:
            caches.pop(number, None)
        if kind == "end":
            return
        if kind == "forward":
            ids, held, options = rest
            cache = None
            if held is not None:
                number, _, cached = held
                cache = caches[number]
                cache.lengths = cached
            model(torch.tensor(ids), cache, **options)
        elif kind == "allocate":
            number, batch_size, slots = rest
            caches[number] = model.allocate_cache(batch_size, slots, channel.ranks.device)
        elif kind == "reserve":
            number, slots = rest
            caches[number].reserve(slots)
        elif kind == "copy":
            number, source, rows = rest
            caches[number].copy_rows(caches[source], rows)
        elif kind == "keep_rows":
            number, rows = rest
            caches[number].keep_rows(rows)
        elif kind == "append_rows":
            number, source, own, others = rest
            caches[number].lengths, caches[source].lengths = own, others
            caches[number].append_rows(caches[source])
        elif kind == "memory":
            channel.peak_memory()

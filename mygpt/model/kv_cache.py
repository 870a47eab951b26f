"""The KV cache: keys and values of earlier tokens, and the length of each sequence.

Shapes: B sequences, T new tokens, S slots, K key-value heads, D dimensions per head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mygpt.model.forward_context import ForwardContext

# Slots that a cache grows by at least: a copy of it each 1024 tokens costs less than one of those tokens.
GROWTH = 1024


@dataclass(frozen=True)
class LayerShape:
    """What a layer caches of a token, and of how many tokens (`window` 0: of all)."""

    kv_heads: int
    head_dim: int
    window: int = 0
    value_dim: int | None = None  # where values have another width than keys; 0: they are a part of the keys


class LayerCache:
    """Keys and values of one layer, (B, K, S, D) each; slot s holds the token at position s.

    Values of no width (`LayerShape.value_dim` 0) cost nothing and pass through all the same.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys
        self.values = values

    @property
    def size(self) -> int:
        """Tokens that it can hold of each sequence."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.keys.nbytes + self.values.nbytes

    def update(self, keys: Tensor, values: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, K, T, D); returns those to attend to, (B, K, S, D) each."""
        if context.start is not None:  # twice as fast as by index
            self.keys[:, :, context.start : context.end] = keys
            self.values[:, :, context.start : context.end] = values
        else:
            self._write(keys, values, context.positions)
        if context.end == keys.shape[2]:  # there are none before
            return keys, values
        seen = min(context.end, self.size)
        return self.keys[:, :, :seen], self.values[:, :, :seen]

    def _write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        rows = torch.arange(len(slots), device=slots.device)[:, None]
        self.keys[rows, :, slots] = keys.transpose(1, 2)
        self.values[rows, :, slots] = values.transpose(1, 2)

    def copy_rows(self, source: LayerCache, rows: Tensor, first: int = 0) -> None:
        """Fill the sequences from `first` on from `rows` of a cache of the same kind, which has no more slots."""
        rows = rows.to(self.keys.device)
        targets = slice(first, first + len(rows))
        self.keys[targets, :, : source.size] = source.keys[rows, :, : source.size]
        self.values[targets, :, : source.size] = source.values[rows, :, : source.size]

    def keep_rows(self, rows: Sequence[int]) -> LayerCache:
        """The cache of the sequences `rows` alone, in that order. It takes over this one's memory."""
        targets = [target for target, row in enumerate(rows) if target != row]
        if targets:
            sources = [rows[target] for target in targets]
            self.keys[targets], self.values[targets] = self.keys[sources], self.values[sources]
        return type(self)(self.keys[: len(rows)], self.values[: len(rows)])


class WindowCache(LayerCache):
    """Of a sliding window's tokens only: a ring, whose slot s holds the newest position that is s modulo its size.

    A slot more, the last, takes what is not to be kept: padding, and tokens that the window has left already.
    Drafted tokens wait beside the ring, in `pending`: a wrong draft must not push out tokens that are still needed.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__(keys, values)
        self.pending: tuple[Tensor, Tensor, Tensor] | None = (
            None  # keys, values (B, K, T, D), positions (B, T)
        )

    @property
    def size(self) -> int:
        """Tokens that it can hold of each sequence."""
        return self.keys.shape[2] - 1

    def update(self, keys: Tensor, values: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, K, T, D); returns those to attend to, (B, K, S, D) each."""
        ring, new = self.size, keys.shape[2]
        self.commit_pending(context.positions[:, :1])
        if new == 1:  # it takes the place of the token that leaves the window
            self._write(keys, values, context.positions % ring)
            held = min(context.end, ring)
            return self.keys[:, :, :held], self.values[:, :, :held]
        held = min(context.end - new, ring)
        seen = (
            torch.cat((self.keys[:, :, :held], keys), dim=2),
            torch.cat((self.values[:, :, :held], values), dim=2),
        )
        if context.speculative:
            self.pending = keys, values, context.positions
        else:
            self._keep(keys, values, context.positions, context.ends)
        return seen

    def commit_pending(self, ends: Tensor) -> None:
        """Keep of the tokens that wait those before `ends` (B, 1), the positions of the next ones."""
        if self.pending is not None:
            self._keep(*self.pending, ends)
            self.pending = None

    def _keep(self, keys: Tensor, values: Tensor, positions: Tensor, ends: Tensor) -> None:
        """Write those tokens at `positions` (B, T) that lie before `ends` (B, 1) and in the window."""
        kept = (positions < ends) & (positions >= ends - self.size)
        self._write(keys, values, torch.where(kept, positions % self.size, self.size))

    def copy_rows(self, source: LayerCache, rows: Tensor, first: int = 0) -> None:
        """As of `LayerCache`. What waits is copied where all sequences are filled."""
        super().copy_rows(source, rows, first)
        assert isinstance(source, WindowCache)
        if source.pending is not None:
            assert len(rows) == len(self.keys), "commit_pending first"
            self.pending = source._pending_of(rows)

    def keep_rows(self, rows: Sequence[int]) -> LayerCache:
        """As of `LayerCache`."""
        kept = super().keep_rows(rows)
        assert isinstance(kept, WindowCache)
        if self.pending is not None:
            kept.pending = self._pending_of(torch.tensor(rows, dtype=torch.long))
        return kept

    def _pending_of(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self.pending is not None
        rows = rows.to(self.keys.device)
        keys, values, positions = self.pending
        return keys[rows], values[rows], positions[rows]


class KVCache:
    """Allocated once, to the size that its sequences need; each sequence has its own length.

    `lengths` lives on the host, so that no step waits for the device to know it. Slots past a sequence's
    length may hold anything: they are written again before any query sees them.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        batch_size: int,
        slots: int,
        devices: Sequence[torch.device],
        dtype: torch.dtype,
        most: int,
    ) -> None:
        """An empty cache; `devices` says where each layer's part lives, `most` how many slots it may grow to."""
        self.shapes = list(shapes)
        self.devices = list(devices)
        self.dtype = dtype
        self.slots = slots
        self.most = most
        self.lengths = [0] * batch_size
        self.layers = [self._layer(*layer) for layer in zip(shapes, devices, strict=True)]

    def _layer(self, shape: LayerShape, device: torch.device) -> LayerCache:
        slots = min(shape.window, self.slots) + 1 if shape.window else self.slots
        widths = (shape.head_dim, shape.head_dim if shape.value_dim is None else shape.value_dim)
        size = (len(self.lengths), shape.kv_heads, slots)
        # The same kind of tensor whoever allocates, or compiled code would have to be compiled for both kinds.
        with torch.inference_mode(False):
            keys, values = (torch.zeros(*size, width, device=device, dtype=self.dtype) for width in widths)
        return WindowCache(keys, values) if shape.window else LayerCache(keys, values)

    def advance(self, counts: Sequence[int]) -> None:
        """Count as held the tokens that a forward pass has just written, `counts` per sequence."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        assert max(self.lengths) <= self.slots, "the cache was sized too small"

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget what each sequence holds past its new length; all of it, where a window has lost what was before."""
        kept = min((layer.size for layer in self.layers), default=self.slots)
        for row, (old, new) in enumerate(zip(self.lengths, lengths, strict=True)):
            if new < old:
                self.lengths[row] = new if old <= kept else 0

    @contextmanager
    def rewound(self) -> Iterator[None]:
        """Forget afterwards all that was added within, out of windows too. The cache must not grow meanwhile."""
        lengths = self.lengths
        rings = [layer for layer in self.layers if isinstance(layer, WindowCache)]
        before = [(ring.keys.clone(), ring.values.clone()) for ring in rings]
        try:
            yield
        finally:
            self.lengths = lengths
            for ring, (keys, values) in zip(rings, before, strict=True):
                ring.keys.copy_(keys)
                ring.values.copy_(values)

    def commit_pending(self) -> None:
        """Keep of the drafted tokens that wait those that `lengths` count."""
        rings = [
            layer for layer in self.layers if isinstance(layer, WindowCache) and layer.pending is not None
        ]
        for ring in rings:
            ring.commit_pending(torch.tensor(self.lengths, device=ring.keys.device)[:, None])

    def reserve(self, slots: int) -> None:
        """Have at least so many slots. A chat's cache grows by this; one that was sized for its work never does.

        Layer by layer, so that no more than one is there twice.
        """
        if slots > self.slots:
            self.slots = max(slots, min(self.slots + GROWTH, self.most))
            rows = torch.arange(len(self.lengths))
            for i, (shape, device) in enumerate(zip(self.shapes, self.devices, strict=True)):
                larger = self._layer(shape, device)
                larger.copy_rows(self.layers[i], rows)
                self.layers[i] = larger

    def empty_like(self, batch_size: int, slots: int) -> KVCache:
        """An empty cache of the same layers, of another size."""
        return KVCache(self.shapes, batch_size, slots, self.devices, self.dtype, self.most)

    def copy_rows(self, source: KVCache, rows: Sequence[int]) -> None:
        """Fill every sequence from row `rows[b]` of `source`, which has no more slots than this cache."""
        for ours, theirs in zip(self.layers, source.layers, strict=True):
            ours.copy_rows(theirs, torch.tensor(rows))
        self.lengths = [source.lengths[row] for row in rows]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forget all sequences but `rows`, which come to stand in that order."""
        self.layers = [layer.keep_rows(rows) for layer in self.layers]
        self.lengths = [self.lengths[row] for row in rows]

    def append_rows(self, other: KVCache) -> None:
        """Take the sequences of another cache of the same layers, behind one's own."""
        counts = len(self.lengths), len(other.lengths)
        self.commit_pending()
        other.commit_pending()
        slots = max(self.slots, other.slots)
        larger = KVCache(self.shapes, sum(counts), slots, self.devices, self.dtype, self.most)
        for joint, ours, theirs in zip(larger.layers, self.layers, other.layers, strict=True):
            joint.copy_rows(ours, torch.arange(counts[0]))
            joint.copy_rows(theirs, torch.arange(counts[1]), first=counts[0])
        self.slots, self.layers, self.lengths = larger.slots, larger.layers, self.lengths + other.lengths

    @property
    def device(self) -> torch.device:
        """Where the first layer lives, which the ids go to."""
        return self.devices[0]

    @property
    def nbytes(self) -> int:
        """Bytes allocated, over all devices."""
        return sum(layer.nbytes for layer in self.layers)

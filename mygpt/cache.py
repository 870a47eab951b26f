"""The KV cache: keys and values of the tokens seen so far, and how many there are of each sequence.

Shapes: B sequences, T new tokens, S slots, K key-value heads, D dimensions per head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, (B, K, S, D) each; slot s holds the token at position s."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys
        self.values = values

    def update(
        self, keys: Tensor, values: Tensor, positions: Tensor, start: int | None, end: int
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, K, T, D) at `positions` (B, T).

        `start` is the first position, where it is the same in all sequences; no position reaches `end`.
        Returns views (B, K, end, D) of all slots before `end`.
        """
        if start is not None:  # twice as fast as by index
            self.keys[:, :, start:end] = keys
            self.values[:, :, start:end] = values
        else:
            rows = torch.arange(len(positions), device=positions.device)[:, None]
            self.keys[rows, :, positions] = keys.transpose(1, 2)
            self.values[rows, :, positions] = values.transpose(1, 2)
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """Allocated once, to the size that a generation needs; each sequence has its own length.

    `lengths` lives on the host, so that no step waits for the device to know it. Slots past a sequence's
    length may hold anything: they are written again before any query sees them.
    """

    def __init__(self, layers: Sequence[LayerCache], lengths: Sequence[int], slots: int) -> None:
        self.layers = list(layers)
        self.lengths = list(lengths)
        self.slots = slots

    @classmethod
    def allocate(
        cls,
        shapes: Sequence[tuple[int, int]],
        batch_size: int,
        slots: int,
        devices: Sequence[torch.device],
        dtype: torch.dtype,
    ) -> KVCache:
        """An empty cache; `shapes` gives (K, D) of each layer, `devices` where each layer's part lives."""

        def layer(shape: tuple[int, int], device: torch.device) -> LayerCache:
            kv_heads, head_dim = shape
            size = (batch_size, kv_heads, slots, head_dim)
            return LayerCache(*(torch.zeros(size, device=device, dtype=dtype) for _ in range(2)))

        layers = [layer(shape, device) for shape, device in zip(shapes, devices, strict=True)]
        return cls(layers, [0] * batch_size, slots)

    def advance(self, counts: Sequence[int]) -> None:
        """Count as held the tokens that a forward pass has just written, `counts` per sequence."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        assert max(self.lengths) <= self.slots, "the cache was sized too small"

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget what each sequence holds past its new length."""
        self.lengths = [min(old, new) for old, new in zip(self.lengths, lengths, strict=True)]

    def empty_like(self, batch_size: int, slots: int) -> KVCache:
        """An empty cache of the same layers, of another size."""

        def layer(old: LayerCache) -> LayerCache:
            _, kv_heads, _, head_dim = old.keys.shape
            return LayerCache(
                *(x.new_zeros(batch_size, kv_heads, slots, head_dim) for x in (old.keys, old.values))
            )

        return KVCache([layer(old) for old in self.layers], [0] * batch_size, slots)

    def copy_rows(self, source: KVCache, rows: Sequence[int]) -> None:
        """Fill every sequence from row `rows[b]` of `source`, which has no more slots than this cache."""
        index = torch.tensor(rows)
        for ours, theirs in zip(self.layers, source.layers, strict=True):
            for name in ("keys", "values"):
                new = getattr(theirs, name)
                getattr(ours, name)[:, :, : source.slots] = new[index.to(new.device)]
        self.lengths = [source.lengths[row] for row in rows]

    @property
    def device(self) -> torch.device:
        """Where the first layer lives, which the ids go to."""
        return self.layers[0].keys.device

    @property
    def nbytes(self) -> int:
        """Bytes allocated, over all devices."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

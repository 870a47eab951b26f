"""Positions and masks of one forward pass: what all layers need to know of its tokens beside the tokens.

Shapes: B sequences, T new tokens, S tokens to attend to, R rotated dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor, nn

from mygpt.model.config import Config, QueryScaling
from mygpt.model.rope import RotaryEmbedding


@dataclass(frozen=True)
class Mask:
    """The keys that a query attends to: all, those of `allowed` (B, 1, T, S), or itself and those before (`causal`)."""

    allowed: Tensor | None = None
    causal: bool = False


@dataclass(frozen=True)
class ForwardContext:
    """What every layer of one forward pass is told.

    Attributes:
        positions: (B, T), each token's position in its sequence.
        ends: (B, 1), the position after each sequence's last token; tokens at or past it are padding.
        start: the first token's position, where it is the same in all sequences.
        end: the position after the last token of the longest sequence, padding included.
        rotary: the tables cos and sin, (B, T, 1, R) each, of layers without a window.
        window_rotary: those of layers with one.
        query_scale: (B, T, 1, 1), what each query is multiplied by; None is 1.
        masks: by the layers' window (0: none).
        speculative: the tokens are drafts: the next pass tells how many of them the cache keeps.
    """

    positions: Tensor
    ends: Tensor
    start: int | None
    end: int
    rotary: tuple[Tensor, Tensor]
    window_rotary: tuple[Tensor, Tensor]
    query_scale: Tensor | None
    masks: dict[int, Mask]
    speculative: bool = False


def query_scales(scaling: QueryScaling, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T, 1, 1) in `dtype`: the factors of the queries at `positions` (B, T)."""
    scales = 1 + scaling.beta * (1 + positions // scaling.interval).log()
    return scales.to(dtype)[..., None, None]


def make_masks(
    windows: Collection[int], positions: Tensor, starts: Sequence[int], slots: int | None
) -> dict[int, Mask]:
    """The mask of each window, for tokens at `positions` (B, T) that follow `starts` cached ones.

    `slots` is the size of the cache; None is no cache. The layout of the keys is that of `kv_cache.py`.
    """
    return {window: _mask(window, positions, starts, slots) for window in windows}


def _mask(window: int, positions: Tensor, starts: Sequence[int], slots: int | None) -> Mask:
    new = positions.shape[1]
    first, end = min(starts), max(starts) + new
    even = first + new == end
    if end == new and (not window or new <= window):
        return Mask(causal=new > 1)
    queries = positions[..., None]
    if not window or new == 1:
        # The keys are slots 0 to `seen`; in a full ring every slot is in the window.
        seen = min(end, window, slots or end) if window else end
        if new == 1 and even:
            return Mask()
        return Mask((torch.arange(seen, device=positions.device) <= queries)[:, None])
    ring = min(window, slots) if slots is not None else 0
    return ring_mask(window, ring, min(max(starts), ring), positions)


def ring_mask(window: int, ring: int, held: int, positions: Tensor) -> Mask:
    """For tokens at `positions` (B, T) that attend to the first `held` slots of a ring, then to each other."""
    last = positions[:, :1] - 1
    # The position of the token in each slot, negative where there is none yet.
    in_slots = last - (last - torch.arange(held, device=positions.device)) % max(ring, 1)
    keys, queries = torch.cat((in_slots, positions), dim=1)[:, None], positions[..., None]
    return Mask(((keys >= 0) & (keys <= queries) & (keys > queries - window))[:, None])


class ForwardOptions(TypedDict, total=False):
    """What a forward pass may be told beside ids and cache. All of it is host data, which ranks can send each other.

    Keys:
        logits_indices: (B,) the one index in T whose logits are wanted of each sequence, that of its last token:
            what follows is padding. Without it all logits are returned, and no token is padding.
        sequence_lengths: (B,) the whole lengths of the sequences, where they are not those after this pass.
        speculative: the tokens are drafts: how many of them stay shows later, when the cache's lengths are set.
    """

    logits_indices: list[int]
    sequence_lengths: list[int]
    speculative: bool


@dataclass(frozen=True)
class Step:
    """One forward pass in numbers of the host, from which contexts are built.

    Attributes:
        cached: tokens that the cache holds of each sequence.
        n_new: T.
        slots: size of the cache; None: there is none.
        logits_indices: index in T of each sequence's last token; None: none is padding.
        sequence_lengths: whole lengths of the sequences.
        speculative: as of `ForwardContext`.
        dtype: of the rotary tables.
    """

    cached: list[int]
    n_new: int
    slots: int | None
    logits_indices: list[int] | None
    sequence_lengths: list[int]
    speculative: bool
    dtype: torch.dtype


class ContextBuilder(nn.Module):
    """Builds the context of each forward pass, on the device of the layers that use it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.rope = RotaryEmbedding(config.rope)
        self.window_rope = RotaryEmbedding(config.window_rope) if config.window_rope else None

    def forward(self, step: Step) -> ForwardContext:
        """The context of a step."""
        cached = step.cached
        positions, ends, lengths = self.positions(step)
        return ForwardContext(
            positions,
            ends,
            cached[0] if min(cached) == max(cached) else None,
            max(cached) + step.n_new,
            *self.tables(positions, lengths, step.dtype),
            make_masks({*self.config.windows}, positions, cached, step.slots),
            step.speculative,
        )

    def positions(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """`positions` (B, T), `ends` (B, 1), and on the host the sequences' whole lengths (B,)."""
        device = self.rope.inv_freq.device
        first = torch.tensor(step.cached, device=device)[:, None]
        positions = torch.arange(step.n_new, device=device) + first
        if step.logits_indices is None:
            ends = first + step.n_new
        else:
            ends = first + torch.tensor(step.logits_indices, device=device)[:, None] + 1
        return positions, ends, torch.tensor(step.sequence_lengths)

    def tables(
        self, positions: Tensor, lengths: Tensor, dtype: torch.dtype
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor | None]:
        """`rotary`, `window_rotary` and `query_scale` of tokens at `positions` (B, T)."""
        rotary = self.rope(positions, lengths, dtype)
        window_rotary = self.window_rope(positions, lengths, dtype) if self.window_rope else rotary
        scaling = self.config.query_scaling
        return rotary, window_rotary, query_scales(scaling, positions, dtype) if scaling else None


class StaticContextBuilder(ContextBuilder):
    """Contexts of few shapes, for compiled code and CUDA graphs, which serve one shape each.

    Tokens that follow others attend to all slots of the cache, by a mask: no shape depends on how many are held.
    """

    def forward(self, step: Step) -> ForwardContext:
        """The context of a step."""
        if step.slots is None or (step.n_new > 1 and not any(step.cached)):
            return replace(super().forward(step), start=None)
        positions, ends, lengths = self.positions(step)
        context = self.static(positions, lengths, step.slots, step.dtype)
        return replace(context, ends=ends, speculative=step.speculative)

    def static(self, positions: Tensor, lengths: Tensor, slots: int, dtype: torch.dtype) -> ForwardContext:
        """The context of tokens at `positions` (B, T), of sequences of whole `lengths` (B,), without padding.

        No number comes from the host but `slots`, the size of the cache.
        """
        n_new = positions.shape[1]

        def mask(window: int) -> Mask:
            ring = min(window, slots)
            if window and n_new > 1:
                return ring_mask(window, ring, ring, positions)
            keys = torch.arange(ring if window else slots, device=positions.device)
            return Mask((keys <= positions[..., None])[:, None])

        masks = {window: mask(window) for window in {*self.config.windows}}
        tables = self.tables(positions, lengths, dtype)
        return ForwardContext(positions, positions[:, -1:] + 1, None, slots + n_new, *tables, masks)

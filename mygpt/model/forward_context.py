"""Where the tokens of one forward pass stand, and which others each may look at.

Shapes: B sequences, T new tokens, S tokens to attend to, R rotated dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mygpt.model.config import Config, QueryScaling
from mygpt.model.rope import RotaryEmbedding


@dataclass(frozen=True)
class Mask:
    """What a query may see: all, or as `allowed` (B, 1, T, S) says, or itself and all before it (`causal`)."""

    allowed: Tensor | None = None
    causal: bool = False


@dataclass(frozen=True)
class Context:
    """What every layer of one forward pass needs to know of the tokens' places.

    Attributes:
        positions: (B, T), each token's place in its sequence.
        ends: (B, 1), the place after each sequence's last token; those at or past it are padding.
        start: the first token's place, where it is the same in all sequences.
        end: the place after the last token of all, padding too.
        rotary: the tables cos and sin, (B, T, 1, R) each, of layers without a window.
        window_rotary: those of layers with one.
        query_scale: (B, T, 1, 1), what each query is multiplied by; None is 1.
        masks: by the layers' window (0: none).
        tentative: how many of the tokens the cache is to keep shows only with the next ones: drafts.
    """

    positions: Tensor
    ends: Tensor
    start: int | None
    end: int
    rotary: tuple[Tensor, Tensor]
    window_rotary: tuple[Tensor, Tensor]
    query_scale: Tensor | None
    masks: dict[int, Mask]
    tentative: bool = False


def query_scales(scaling: QueryScaling, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T, 1, 1) in `dtype`: the factors of the queries at `positions` (B, T)."""
    scales = 1 + scaling.beta * (1 + positions // scaling.interval).log()
    return scales.to(dtype)[..., None, None]


def make_masks(
    windows: Collection[int], positions: Tensor, starts: Sequence[int], slots: int | None
) -> dict[int, Mask]:
    """The mask of each window, for tokens at `positions` (B, T) that follow `starts` cached ones.

    `slots` is the size of the cache; None is no cache. The layout of the keys is that of `cache.py`.
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


class Places(nn.Module):
    """Makes the context of each forward pass, on the device of the layers that use it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.rope = RotaryEmbedding(config.rope)
        self.window_rope = RotaryEmbedding(config.window_rope) if config.window_rope else None

    def forward(
        self,
        starts: list[int],
        new: int,
        last: list[int] | None,
        lengths: list[int] | None,
        slots: int | None,
        dtype: torch.dtype,
    ) -> Context:
        """The context of `new` tokens that follow `starts` cached ones of each sequence.

        Args:
            starts: how many tokens the cache holds of each sequence.
            new: T.
            last: the place of T of each sequence's last token; by default the last place.
            lengths: the sequences' whole lengths, by default those after these tokens.
            slots: the size of the cache; None is no cache.
            dtype: of the tables.
        """
        positions, ends, whole = self.where(starts, new, last, lengths)
        masks = make_masks({*self.config.windows}, positions, starts, slots)
        start = starts[0] if min(starts) == max(starts) else None
        end, tentative = max(starts) + new, last is None
        return Context(positions, ends, start, end, *self.tables(positions, whole, dtype), masks, tentative)

    def where(
        self, starts: list[int], new: int, last: list[int] | None, lengths: list[int] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (B, T), ends (B, 1), and on the host the sequences' whole lengths (B,); as of `forward`."""
        device = self.rope.inv_freq.device
        first = torch.tensor(starts, device=device)[:, None]
        positions = torch.arange(new, device=device) + first
        ends = first + (new if last is None else torch.tensor(last, device=device)[:, None] + 1)
        return positions, ends, torch.tensor(lengths or [start + new for start in starts])

    def tables(
        self, positions: Tensor, lengths: Tensor, dtype: torch.dtype
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor | None]:
        """`rotary`, `window_rotary` and `query_scale` of tokens at `positions` (B, T)."""
        rotary = self.rope(positions, lengths, dtype)
        window_rotary = self.window_rope(positions, lengths, dtype) if self.window_rope else rotary
        scaling = self.config.query_scaling
        return rotary, window_rotary, query_scales(scaling, positions, dtype) if scaling else None

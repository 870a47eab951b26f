"""Contexts for code that serves tokens alike only: compiled code, CUDA graphs.

Shapes: B sequences, T new tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mygpt.model.forward_context import Context, Mask, Places, ring_mask


class SteadyPlaces(Places):
    """Contexts as alike as can be, since compiled code and CUDA graphs serve those alike only.

    Tokens that follow others attend to all slots of the cache, by a mask: shapes tell nothing of how many are held.
    """

    def forward(
        self,
        starts: list[int],
        new: int,
        last: list[int] | None,
        lengths: list[int] | None,
        slots: int | None,
        dtype: torch.dtype,
    ) -> Context:
        """As of `Places`."""
        if slots is None or (new > 1 and not any(starts)):
            return replace(super().forward(starts, new, last, lengths, slots, dtype), start=None)
        positions, ends, whole = self.where(starts, new, last, lengths)
        return replace(self.steady(positions, whole, slots, dtype), ends=ends, tentative=last is None)

    def steady(self, positions: Tensor, lengths: Tensor, slots: int, dtype: torch.dtype) -> Context:
        """The context of tokens at `positions` (B, T), of sequences of whole `lengths` (B,), none of them padding.

        No number comes from the host but `slots`, the size of the cache.
        """
        new = positions.shape[1]

        def mask(window: int) -> Mask:
            ring = min(window, slots)
            if window and new > 1:
                return ring_mask(window, ring, ring, positions)
            keys = torch.arange(ring if window else slots, device=positions.device)
            return Mask((keys <= positions[..., None])[:, None])

        masks = {window: mask(window) for window in {*self.config.windows}}
        tables = self.tables(positions, lengths, dtype)
        return Context(positions, positions[:, -1:] + 1, None, slots + new, *tables, masks)

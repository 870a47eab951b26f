"""Drafts: tokens that are proposed for sequences, so that one forward pass can confirm several.

Shapes: B sequences, R rows of them, D tokens of the longest draft, V ids that may be sampled.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mygpt.engine.sequence import Sequence


@dataclass(frozen=True)
class Drafts:
    """What may come next in each of B sequences.

    Attributes:
        ids: the drafted tokens of each sequence; any number of them.
        probabilities: (B, D, V) that they were drawn from; None where they were not drawn.
    """

    ids: list[list[int]]
    probabilities: Tensor | None = None

    @property
    def width(self) -> int:
        """D, the length of the longest."""
        return max(map(len, self.ids), default=0)

    def at(self, index: int, rows: SequenceOf[int], vocab_size: int) -> tuple[Tensor, Tensor] | None:
        """Probabilities (R, V) and ids (R,) of some rows' drafts at an index; zeros where a row's draft is shorter."""
        if self.probabilities is None or index >= self.width:
            return None
        drafted = [index < len(self.ids[row]) for row in rows]
        ids = [self.ids[row][index] if ok else 0 for row, ok in zip(rows, drafted, strict=True)]
        device = self.probabilities.device
        drawn_from = self.probabilities[list(rows), index] * torch.tensor(drafted, device=device)[:, None]
        padded = F.pad(drawn_from, (0, vocab_size - drawn_from.shape[-1]))
        return padded, torch.tensor(ids, device=device)


class Drafter(Protocol):
    """Guesses what comes next."""

    def propose(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> Drafts:
        """Drafts for each sequence, of `limits` tokens at most."""

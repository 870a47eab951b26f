"""A sequence being generated, its draft tokens, and how its next token is sampled.

Shapes: B sequences, R of them, D tokens of a draft, V ids that may be sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mygpt.engine.sampling import distribution, draw, sample, settle
from mygpt.options import Sampling

# Tokens that a draft may have, and that the first one has.
MAX_DRAFT, FIRST_DRAFT = 8, 4


@dataclass(eq=False)
class Generation:
    """One sequence being generated. Whoever reads it may set `finish_reason` to end it early."""

    prompt_ids: list[int]
    max_new_tokens: int
    seed: int
    new_ids: list[int] = field(default_factory=list)  # the end token too, where one was sampled
    finish_reason: Literal["stop", "length"] | None = None
    draft_tokens: int = 0  # how many were proposed, and how many of them the model agreed to
    accepted_draft_tokens: int = 0
    next_draft: int = FIRST_DRAFT

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def append(self, token: int, stop_ids: AbstractSet[int]) -> None:
        """Take one more token, and see whether it is the last."""
        self.new_ids.append(token)
        if token in stop_ids:
            self.finish_reason = "stop"
        elif len(self.new_ids) == self.max_new_tokens:
            self.finish_reason = "length"

    def judge(self, drafted: int, accepted: int) -> None:
        """Count a draft. The next one may be twice as long, or but a little longer than what was good of this one."""
        self.draft_tokens += drafted
        self.accepted_draft_tokens += accepted
        if drafted:
            self.next_draft = min(MAX_DRAFT, 2 * drafted) if accepted == drafted else accepted + 1


@dataclass(frozen=True)
class Drafts:
    """What may come next in each of B sequences.

    Attributes:
        ids: of each sequence; any number of them.
        probabilities: (B, D, V) that they were drawn from; None where they were not drawn.
    """

    ids: list[list[int]]
    probabilities: Tensor | None = None

    @property
    def width(self) -> int:
        """D, the length of the longest."""
        return max(map(len, self.ids))

    def at(self, place: int, rows: Sequence[int], vocab_size: int) -> tuple[Tensor, Tensor] | None:
        """Probabilities (R, V) and ids (R,) of some rows' drafts at a place; zeros where a row has none there."""
        if self.probabilities is None or place >= self.width:
            return None
        there = [place < len(self.ids[row]) for row in rows]
        ids = [self.ids[row][place] if ok else 0 for row, ok in zip(rows, there, strict=True)]
        device = self.probabilities.device
        drawn_from = self.probabilities[list(rows), place] * torch.tensor(there, device=device)[:, None]
        padded = F.pad(drawn_from, (0, vocab_size - drawn_from.shape[-1]))
        return padded, torch.tensor(ids, device=device)


class Drafter(Protocol):
    """Guesses what comes next, so that one forward pass of the model can confirm several tokens."""

    def propose(self, generations: Sequence[Generation], limits: Sequence[int], sampling: Sampling) -> Drafts:
        """Drafts for each sequence, of `limits` tokens at most."""


class Chooser:
    """Samples the next tokens, with what each sequence needs for that: its chance, and the ids it has seen."""

    def __init__(self, sampling: Sampling, generations: Sequence[Generation], logits: Tensor) -> None:
        """`logits` (…, V) are an example of those to come."""
        self.sampling = sampling
        self.generations = generations
        ids = [g.prompt_ids + g.new_ids for g in generations]
        self.seen = (
            None if sampling.repetition_penalty == 1 else seen_ids(ids, logits.shape[-1], logits.device)
        )

    def choose(self, logits: Tensor, rows: list[int], draft: tuple[Tensor, Tensor] | None) -> list[int]:
        """The next token of each of these rows, by logits (R, V); `draft` is what `Drafts.at` gives."""
        seen = None if self.seen is None else self.seen[rows]
        if draft is None:
            tokens = sample(logits, self.sampling, self._uniforms(rows), seen)
        else:
            offered, drafted = (tensor.to(logits.device) for tensor in draft)
            target = distribution(logits, self.sampling, seen)
            tokens = settle(target, offered, drafted, self._uniforms(rows))
        return self._taken(rows, tokens)

    def offer(self, logits: Tensor, rows: list[int]) -> tuple[list[int], Tensor | None]:
        """Tokens for a draft, and the probabilities (R, V) that they were drawn from; None where chance has no part."""
        if self.sampling.greedy:
            return self.choose(logits, rows, None), None
        seen = None if self.seen is None else self.seen[rows]
        probabilities = distribution(logits, self.sampling, seen)
        return self._taken(rows, draw(probabilities, self._uniforms(rows))), probabilities

    def _uniforms(self, rows: list[int]) -> Tensor:
        """One number for each row, by its own chance."""
        chance = [self.generations[row].random for row in rows]
        return torch.stack([torch.rand((), generator=random, dtype=torch.float64) for random in chance])

    def _taken(self, rows: list[int], tokens: Tensor) -> list[int]:
        if self.seen is not None:
            self.seen[rows, tokens] = True
        taken: list[int] = tokens.tolist()
        return taken


def seen_ids(sequences: Sequence[list[int]], vocab_size: int, device: torch.device) -> Tensor:
    """(B, V) true at the ids of each sequence; those past the vocabulary are never sampled."""
    seen = torch.zeros(len(sequences), vocab_size, dtype=torch.bool, device=device)
    for row, ids in zip(seen, sequences, strict=True):
        row[torch.tensor([token for token in set(ids) if token < vocab_size], dtype=torch.long)] = True
    return seen

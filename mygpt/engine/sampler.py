"""Samples the next tokens of sequences, each by its own settings.

Shapes: R sequences, V ids that may be sampled.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mygpt.engine.sampling import distribution, draw, rejection_sample, sample
from mygpt.engine.sequence import Sequence
from mygpt.options import Sampling


class Sampler:
    """Chooses tokens for sequences in batches, those of equal settings together.

    It remembers which ids each sequence holds, where a repetition penalty asks for that.
    """

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[Sequence, Tensor] = WeakKeyDictionary()  # (V,) bool

    def sample(
        self, sequences: SequenceOf[Sequence], logits: Tensor, draft: tuple[Tensor, Tensor] | None = None
    ) -> list[int]:
        """The next token of each sequence, by logits (R, V).

        `draft` is what `Drafts.at` gives: probabilities (R, V) and the tokens (R,) that were drawn from them. The
        tokens returned follow the model's distribution, and agree with the drafted ones as often as they can.

        Raises:
            RunError: a logit is not finite.
        """
        tokens: list[int] = [0] * len(sequences)
        for sampling, rows in _by_settings(sequences):
            group = [sequences[row] for row in rows]
            part, seen = _rows(logits, rows), self._seen_by(group, sampling, logits)
            if sampling.greedy or draft is None:
                chosen = sample(part, sampling, _uniforms(group, sampling), seen)
            else:
                drawn_from, drafted = (_rows(tensor.to(logits.device), rows) for tensor in draft)
                target = distribution(part, sampling, seen)
                chosen = rejection_sample(target, drawn_from, drafted, _uniforms(group, sampling))
            for row, token in zip(rows, self._remember(group, chosen), strict=True):
                tokens[row] = token
        return tokens

    def propose(self, sequences: SequenceOf[Sequence], logits: Tensor) -> tuple[list[int], Tensor | None]:
        """Tokens for a draft, and the probabilities (R, V) that they were drawn from.

        Rows of greedy sequences are zeros there; None where all are greedy.
        """
        if all(sequence.sampling.greedy for sequence in sequences):
            return self.sample(sequences, logits), None
        tokens: list[int] = [0] * len(sequences)
        drawn_from = torch.zeros_like(logits, dtype=torch.float32)
        for sampling, rows in _by_settings(sequences):
            group = [sequences[row] for row in rows]
            part, seen = _rows(logits, rows), self._seen_by(group, sampling, logits)
            if sampling.greedy:
                chosen = sample(part, sampling, _uniforms(group, sampling), seen)
            else:
                drawn_from[rows] = distribution(part, sampling, seen)
                chosen = draw(drawn_from[rows], _uniforms(group, sampling))
            for row, token in zip(rows, self._remember(group, chosen), strict=True):
                tokens[row] = token
        return tokens, drawn_from

    def _seen_by(self, sequences: SequenceOf[Sequence], sampling: Sampling, logits: Tensor) -> Tensor | None:
        """(R, V) true at the ids that each sequence holds; None without a penalty."""
        if sampling.repetition_penalty == 1:
            return None
        for sequence in sequences:
            if sequence not in self._seen:
                self._seen[sequence] = seen_ids(sequence.ids, logits.shape[-1], logits.device)
        return torch.stack([self._seen[sequence] for sequence in sequences])

    def _remember(self, sequences: SequenceOf[Sequence], tokens: Tensor) -> list[int]:
        chosen: list[int] = tokens.tolist()
        for sequence, token in zip(sequences, chosen, strict=True):
            if sequence in self._seen:
                self._seen[sequence][token] = True
        return chosen


def _by_settings(sequences: SequenceOf[Sequence]) -> list[tuple[Sampling, list[int]]]:
    """The rows of the sequences, those of equal settings together."""
    groups: dict[Sampling, list[int]] = {}
    for row, sequence in enumerate(sequences):
        groups.setdefault(sequence.sampling, []).append(row)
    return list(groups.items())


def _rows(tensor: Tensor, rows: list[int]) -> Tensor:
    return tensor if len(rows) == len(tensor) else tensor[rows]


def _uniforms(sequences: SequenceOf[Sequence], sampling: Sampling) -> Tensor:
    """(R,) float64 in [0, 1): each sequence's next random number, so that none depends on a neighbour."""
    if sampling.greedy:
        return torch.zeros(len(sequences), dtype=torch.float64)
    return torch.stack([torch.rand((), generator=s.rng, dtype=torch.float64) for s in sequences])


def seen_ids(ids: list[int], vocab_size: int, device: torch.device) -> Tensor:
    """(V,) true at these ids; those past the vocabulary are never sampled."""
    seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
    seen[torch.tensor([token for token in set(ids) if token < vocab_size], dtype=torch.long)] = True
    return seen

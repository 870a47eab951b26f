"""Decodes sequences together: they join and leave between steps. Knows ids alone, no text.

Shapes: B running sequences, R of them, T tokens, D tokens of the longest draft, V ids that may be sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from mygpt.engine.drafts import Drafter, Drafts
from mygpt.engine.prefill import prefill, prefill_distinct
from mygpt.engine.sampler import Sampler
from mygpt.engine.sequence import MAX_DRAFT, Sequence
from mygpt.model.causal_lm import CausalLM
from mygpt.model.kv_cache import KVCache


class Scheduler:
    """Runs sequences on a model, row i of the cache for `running[i]`.

    A sequence's tokens depend on itself alone. Those that wait join before the next step, with a prefill of their
    own; those that are finished leave before it, so that nothing is computed for them.
    """

    def __init__(
        self,
        model: CausalLM,
        *,
        vocab_size: int,
        cache: KVCache | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            model: the model, or its placement.
            vocab_size: ids from here on are padding and never sampled.
            cache: for the first sequences to join, a row each; what it holds of a prompt is not computed again. By
                default one is allocated.
            drafter: proposes tokens. It changes the speed alone (speculative decoding, arXiv:2211.17192): greedy ids
                stay what they are, and samples follow the same distribution.
        """
        self.model = model
        self.vocab_size = vocab_size
        self.cache = cache
        self.drafter = drafter
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self._sampler = Sampler()

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Let sequences join before the next step."""
        self.waiting += sequences

    @property
    def has_unfinished(self) -> bool:
        """Whether there is anything to do."""
        return not all(sequence.is_finished for sequence in (*self.running, *self.waiting))

    @torch.inference_mode()
    def step(self) -> Iterator[list[Sequence]]:
        """One forward pass: the prefill of those that wait, or the next tokens of those that run.

        Yields the sequences that got a token, once for each token of the longest accepted draft. Whenever it yields,
        the cache holds of each running sequence all but the newest token.

        Raises:
            RunError: a logit is not finite.
        """
        self._remove_finished()
        if self.waiting:
            joining, logits = self._admit()
            yield from self._accept(joining, logits[:, None, : self.vocab_size], _no_drafts(joining))
        elif self.has_unfinished:
            drafts = self._draft()
            logits = decode_step(self.model, self._held(), self.running, drafts.ids)
            yield from self._accept(self.running, logits[..., : self.vocab_size], drafts)

    def _held(self) -> KVCache:
        assert self.cache is not None, "sequences run, so there is a cache"
        return self.cache

    def _admit(self) -> tuple[list[Sequence], Tensor]:
        """Those that wait, now running, and the logits (R, V) after their prompts."""
        joining, self.waiting = self.waiting, []
        prompts = [sequence.ids for sequence in joining]
        if self.running:
            own = self._held().empty_like(len(joining), max(map(len, prompts)))
            logits = prefill_distinct(self.model, own, prompts)
            self._held().append_rows(own)
        else:
            if self.cache is None:
                self.cache = self.model.allocate_cache(len(joining), self._slots(joining))
            logits = prefill_distinct(self.model, self.cache, prompts)
        self.running = [*self.running, *joining]
        return joining, logits

    def _slots(self, sequences: SequenceOf[Sequence]) -> int:
        """Cache slots that these may need: a draft may reach past a finished sequence's end."""
        most = max(len(sequence.prompt_ids) + sequence.max_new_tokens for sequence in sequences)
        return most + (MAX_DRAFT if self.drafter else 0)

    def _remove_finished(self) -> None:
        """Take the rows of finished sequences out of the cache; the last rows move into their places.

        Where all are finished, the cache is left to whoever gave it, or dropped when others wait.
        """
        self.waiting = [sequence for sequence in self.waiting if not sequence.is_finished]
        active = [row for row, sequence in enumerate(self.running) if not sequence.is_finished]
        if len(active) == len(self.running):
            return
        if not active:
            if self.waiting:
                self.running, self.cache = [], None
            return
        last = iter(row for row in active if row >= len(active))
        rows = [next(last) if self.running[row].is_finished else row for row in range(len(active))]
        self._held().keep_rows(rows)
        self.running = [self.running[row] for row in rows]

    def _draft(self) -> Drafts:
        if self.drafter is None:
            return _no_drafts(self.running)
        limits = draft_limits(self.model, self._held(), self.running)
        return self.drafter.propose(self.running, limits) if any(limits) else _no_drafts(self.running)

    def _accept(
        self, sequences: SequenceOf[Sequence], logits: Tensor, drafts: Drafts
    ) -> Iterator[list[Sequence]]:
        """Append what follows by the logits (R, 1 + D, V), as far as drafts are right; at least one token each."""
        rows = list(range(len(sequences)))
        accepted = [0] * len(sequences)
        index = 0
        while rows:
            if index:  # the drafted tokens that were right are held too
                self._held().advance([int(row in rows) for row in range(len(self.running))])
            active = [sequences[row] for row in rows]
            here = logits[:, index] if len(rows) == len(logits) else logits[rows, index]
            tokens = self._sampler.sample(active, here, drafts.at(index, rows, here.shape[-1]))
            for sequence, token in zip(active, tokens, strict=True):
                sequence.append(token)
            yield active
            pairs = zip(rows, tokens, strict=True)
            agreed = [row for row, token in pairs if drafts.ids[row][index : index + 1] == [token]]
            for row in agreed:
                accepted[row] += 1
            rows = [row for row in agreed if not sequences[row].is_finished]
            index += 1
        for sequence, draft, count in zip(sequences, drafts.ids, accepted, strict=True):
            sequence.count_draft(len(draft), count)


def decode(
    model: CausalLM,
    sequences: Iterable[Sequence],
    *,
    vocab_size: int,
    cache: KVCache | None = None,
    drafter: Drafter | None = None,
) -> Iterator[list[Sequence]]:
    """Generate until every sequence has a finish reason; yields after each token those that got one.

    This is a `Scheduler` with one submission; the arguments are its.
    """
    scheduler = Scheduler(model, vocab_size=vocab_size, cache=cache, drafter=drafter)
    scheduler.add(sequences)
    while scheduler.has_unfinished:
        yield from scheduler.step()


def draft_limits(model: CausalLM, cache: KVCache, sequences: SequenceOf[Sequence]) -> list[int]:
    """How many tokens to draft for each running sequence, so that none is in vain or outdates the cache."""
    outdates = model.rope.outdates_cache
    if any(outdates(length, length + 1) for length in cache.lengths):
        return [0] * len(sequences)
    limits = []
    for sequence, length in zip(sequences, cache.lengths, strict=True):
        left = sequence.max_new_tokens - len(sequence.new_ids) - 1  # after the token that comes in any case
        limit = min(left, sequence.next_draft)
        limits.append(0 if outdates(length + 1, length + 1 + limit) else limit)
    return limits


def decode_step(
    model: CausalLM, cache: KVCache, sequences: SequenceOf[Sequence], drafts: SequenceOf[list[int]]
) -> Tensor:
    """Logits (B, 1 + D, V) after each sequence's newest token, and after each token of its draft.

    The cache counts the newest token as held; those of the draft are there too, for the caller to count.
    """
    if any(model.rope.outdates_cache(length, length + 1) for length in cache.lengths):
        cache.truncate([0] * len(sequences))
        return prefill(model, cache, [sequence.ids for sequence in sequences])[:, None]
    width = max(map(len, drafts))
    cache.reserve(max(cache.lengths) + 1 + width)
    rows = [[s.new_ids[-1], *d, *[0] * (width - len(d))] for s, d in zip(sequences, drafts, strict=True)]
    ids = torch.tensor(rows, device=cache.device)
    if width == 0:
        logits = model(ids, cache, logits_indices=[0] * len(ids))[:, None]
    else:
        lengths = [held + 1 + len(draft) for held, draft in zip(cache.lengths, drafts, strict=True)]
        logits = model(ids, cache, sequence_lengths=lengths, speculative=True)
    cache.advance([1] * len(sequences))
    return logits


def _no_drafts(sequences: SequenceOf[Sequence]) -> Drafts:
    return Drafts([[] for _ in sequences])

"""Drafters for speculative decoding (arXiv:2211.17192): the text itself, or a smaller model.

Shapes: B sequences, D tokens of a draft, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mygpt.engine.drafts import Drafter, Drafts
from mygpt.engine.prefill import common_prefix, prefill
from mygpt.engine.sampler import Sampler
from mygpt.engine.sequence import Sequence
from mygpt.model.causal_lm import CausalLM
from mygpt.model.kv_cache import KVCache
from mygpt.options import check_choice

# Lengths of what is looked up in the text, in the order that they are tried.
GRAMS = (3, 2)


class NGramDrafter:
    """Looks the last few ids up in the text so far; what followed them there is the draft (prompt lookup).

    After https://github.com/apoorvumang/prompt-lookup-decoding; the most recent occurrence wins.
    """

    def __init__(self) -> None:
        self._texts: WeakKeyDictionary[Sequence, IndexedText] = WeakKeyDictionary()

    def propose(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> Drafts:
        """Drafts for each sequence, of `limits` tokens at most; none is drawn at random."""
        return Drafts([self._draft(s, limit) for s, limit in zip(sequences, limits, strict=True)])

    def _draft(self, sequence: Sequence, limit: int) -> list[int]:
        if limit == 0:
            return []
        text = self._texts.setdefault(sequence, IndexedText())
        text.extend(sequence.prompt_ids if not text.ids else [])
        text.extend(sequence.new_ids[len(text.ids) - len(sequence.prompt_ids) :])
        return text.continuation(limit)


class IndexedText:
    """Ids, and where each n-gram of them was seen last."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # of all but the newest, which are what is looked up

    def extend(self, ids: SequenceOf[int]) -> None:
        """Take more ids."""
        for token in ids:
            for gram in self._last_grams():
                self._ends[gram] = len(self.ids)
            self.ids.append(token)

    def continuation(self, limit: int) -> list[int]:
        """What followed the longest known of the last n-grams, `limit` ids; none where there is none.

        Where the end is reached it goes on with itself, as a loop does.
        """
        end = next((self._ends[gram] for gram in self._last_grams() if gram in self._ends), None)
        if end is None:
            return []
        period = self.ids[end:]
        return [period[i % len(period)] for i in range(limit)]

    def _last_grams(self) -> list[tuple[int, ...]]:
        return [tuple(self.ids[-n:]) for n in GRAMS if len(self.ids) >= n]


class ModelDrafter:
    """A smaller model of the same vocabulary, with a cache of its own that follows the accepted tokens."""

    def __init__(self, model: CausalLM, vocab_size: int) -> None:
        """Ids from `vocab_size` on are not proposed."""
        self.model = model
        self.vocab_size = vocab_size
        self._cache: KVCache | None = None
        self._rows: list[Sequence] = []  # the sequence of each row of the cache
        self._held: list[list[int]] = []  # the ids that the cache holds in each row

    @torch.inference_mode()
    def propose(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> Drafts:
        """Drafts for each sequence, of `limits` tokens at most, sampled by its own settings."""
        limits = [self._limit(s.ids, limit) for s, limit in zip(sequences, limits, strict=True)]
        if not any(limits):
            return Drafts([[] for _ in sequences])
        cache = self._align(sequences)
        logits = self._catch_up(cache, sequences, limits)[:, : self.vocab_size]
        with cache.rewound():
            return self._draft(logits, cache, sequences, limits)

    def _limit(self, ids: list[int], limit: int) -> int:
        """As many as fit this model's context without changing its frequencies."""
        limit = max(0, min(limit, self.model.config.context_length - len(ids)))
        outdated = self.model.rope.outdates_cache(len(ids), len(ids) + limit)
        unknown = max(ids) >= self.model.config.vocab_size  # padding ids, which only a larger embedding has
        return 0 if outdated or unknown else limit

    def _align(self, sequences: SequenceOf[Sequence]) -> KVCache:
        """The cache, a row for each sequence. A new one takes a row that is free: it may begin with the same text."""
        slots = max(len(sequence.ids) for sequence in sequences)
        if self._cache is None:
            self._cache = self.model.allocate_cache(len(sequences), slots)
            self._rows, self._held = list(sequences), [[] for _ in sequences]
        row_of = {sequence: row for row, sequence in enumerate(self._rows)}
        free = [row for row, sequence in enumerate(self._rows) if sequence not in set(sequences)]
        if missing := max(0, len(sequences) - len(self._rows)):
            self._cache.append_rows(self._cache.empty_like(missing, 1))
            self._held += [[] for _ in range(missing)]
            free += range(len(self._rows), len(self._rows) + missing)
        rows = [row_of[s] if s in row_of else free.pop(0) for s in sequences]
        if rows != list(range(len(self._held))):
            self._cache.keep_rows(rows)
            self._held = [self._held[row] for row in rows]
        self._rows = list(sequences)
        return self._cache

    def _catch_up(self, cache: KVCache, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> Tensor:
        """Logits (B, V) after each sequence's ids; those without a limit above 0 are left where they are."""
        texts = [sequence.ids for sequence in sequences]
        shared = [common_prefix(held, text[:-1]) for held, text in zip(self._held, texts, strict=True)]
        outdates = self.model.rope.outdates_cache
        lengths = zip(cache.lengths, shared, texts, strict=True)
        cache.truncate([0 if outdates(old, len(text)) else min(old, new) for old, new, text in lengths])
        cache.reserve(max(map(len, texts)) + max(limits))
        parts = zip(cache.lengths, limits, texts, strict=True)
        self._held = [text if limit else text[:length] for length, limit, text in parts]
        return prefill(self.model, cache, self._held)

    def _draft(
        self, logits: Tensor, cache: KVCache, sequences: SequenceOf[Sequence], limits: SequenceOf[int]
    ) -> Drafts:
        """Go on from the logits (B, V), token by token."""
        drafts: list[list[int]] = [[] for _ in limits]
        sampler, width = Sampler(), max(limits)
        drawn_from: Tensor | None = None
        for index in range(width):
            rows = [row for row, limit in enumerate(limits) if limit > index]
            tokens, probabilities = sampler.propose([sequences[row] for row in rows], logits[rows])
            for row, token in zip(rows, tokens, strict=True):
                drafts[row].append(token)
            if probabilities is not None:
                if drawn_from is None:
                    drawn_from = probabilities.new_zeros(len(limits), width, logits.shape[-1])
                drawn_from[rows, index] = probabilities
            if index + 1 < width:
                ids = torch.tensor([(draft or [0])[-1:] for draft in drafts], device=cache.device)
                logits = self.model(ids, cache, logits_indices=[0] * len(ids))[:, : self.vocab_size]
                cache.advance([int(limit > index) for limit in limits])
        return Drafts(drafts, drawn_from)


def make_drafter(speculate: str | None) -> Drafter | None:
    """What `--speculate` names.

    Raises:
        InputError: there is no such way.
    """
    if speculate is None:
        return None
    check_choice("speculate", speculate)
    return NGramDrafter()

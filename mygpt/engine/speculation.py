"""Drafters for speculative decoding (arXiv:2211.17192): n-grams of the text, or a smaller model.

Shapes: B sequences, D tokens of a draft, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mygpt.engine.decode import Model, prefill
from mygpt.engine.sequence import Chooser, Drafter, Drafts, Generation
from mygpt.errors import InputError
from mygpt.model.config import Config
from mygpt.model.kv_cache import KVCache
from mygpt.options import SPECULATIONS, Sampling

# Lengths of what is looked up in the text, in the order that they are tried.
GRAMS = (3, 2)


class NGramDrafter:
    """Looks the last few ids up in the text so far; what followed them there is the draft (prompt lookup).

    After https://github.com/apoorvumang/prompt-lookup-decoding; the most recent place wins.
    """

    def __init__(self) -> None:
        self._texts: WeakKeyDictionary[Generation, IndexedText] = WeakKeyDictionary()

    def propose(self, generations: Sequence[Generation], limits: Sequence[int], sampling: Sampling) -> Drafts:
        """Drafts for each sequence, of `limits` tokens at most; chance has no part in them."""
        return Drafts([self._draft(g, limit) for g, limit in zip(generations, limits, strict=True)])

    def _draft(self, generation: Generation, limit: int) -> list[int]:
        if limit == 0:
            return []
        text = self._texts.setdefault(generation, IndexedText())
        text.extend(generation.prompt_ids if not text.ids else [])
        text.extend(generation.new_ids[len(text.ids) - len(generation.prompt_ids) :])
        return text.continuation(limit)


class IndexedText:
    """Ids, and where each n-gram of them was seen last."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # of all but the newest, which are what is looked up

    def extend(self, ids: Sequence[int]) -> None:
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

    def __init__(self, model: Model, config: Config, vocab_size: int) -> None:
        """`config` is the model's; ids from `vocab_size` on are not proposed."""
        self.model = model
        self.config = config
        self.vocab_size = vocab_size
        self._cache: KVCache | None = None
        self._held: list[list[int]] = []  # the ids that the cache holds of each sequence

    @torch.inference_mode()
    def propose(self, generations: Sequence[Generation], limits: Sequence[int], sampling: Sampling) -> Drafts:
        """Drafts for each sequence, of `limits` tokens at most, sampled as the model's own would be."""
        texts = [g.prompt_ids + g.new_ids for g in generations]
        limits = [self._limit(text, limit) for text, limit in zip(texts, limits, strict=True)]
        if not any(limits):
            return Drafts([[]] * len(texts))
        logits = self._follow(texts, limits)[:, : self.vocab_size]
        assert self._cache is not None
        with self._cache.rewound():
            return self._draft(logits, self._cache, generations, limits, sampling)

    def _limit(self, text: list[int], limit: int) -> int:
        """As many as fit this model's context, and change none of its frequencies on the way."""
        limit = max(0, min(limit, self.config.context_length - len(text)))
        outdated = self.model.rope.outdates_cache(len(text), len(text) + limit)
        unknown = max(text) >= self.config.vocab_size  # padding ids, which only a larger embedding has
        return 0 if outdated or unknown else limit

    def _follow(self, texts: Sequence[list[int]], limits: Sequence[int]) -> Tensor:
        """Logits (B, V) after each text; what has no limit above 0 is left where it is."""
        cache = self._cache
        if cache is None or len(self._held) != len(texts):
            cache = self._cache = self.model.allocate_cache(len(texts), max(map(len, texts)))
            self._held = [[] for _ in texts]
        shared = [_common(held, text[:-1]) for held, text in zip(self._held, texts, strict=True)]
        outdates = self.model.rope.outdates_cache
        pairs = zip(cache.lengths, shared, texts, strict=True)
        cache.truncate([0 if outdates(old, len(text)) else min(old, new) for old, new, text in pairs])
        cache.reserve(max(map(len, texts)) + max(limits))
        pairs = zip(cache.lengths, limits, texts, strict=True)
        self._held = [text if limit else text[:length] for length, limit, text in pairs]
        return prefill(self.model, cache, self._held)

    def _draft(
        self,
        logits: Tensor,
        cache: KVCache,
        generations: Sequence[Generation],
        limits: Sequence[int],
        sampling: Sampling,
    ) -> Drafts:
        """Go on from the logits (B, V), token by token."""
        drafts: list[list[int]] = [[] for _ in limits]
        chooser = Chooser(sampling, generations, logits)
        width = max(limits)
        drawn_from = (
            None if sampling.greedy else logits.new_zeros(len(limits), width, logits.shape[-1]).float()
        )
        for place in range(width):
            rows = [row for row, limit in enumerate(limits) if limit > place]
            tokens, probabilities = chooser.offer(logits[rows], rows)
            for row, token in zip(rows, tokens, strict=True):
                drafts[row].append(token)
            if drawn_from is not None and probabilities is not None:
                drawn_from[rows, place] = probabilities
            if place + 1 < width:
                ids = torch.tensor([(draft or [0])[-1:] for draft in drafts], device=cache.device)
                logits = self.model(ids, cache, last=[0] * len(ids))[:, : self.vocab_size]
                cache.advance([int(limit > place) for limit in limits])
        return Drafts(drafts, drawn_from)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    if first == second[: len(first)]:  # quickly, the usual case
        return len(first)
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


def make_drafter(speculate: str | None) -> Drafter | None:
    """What `--speculate` names.

    Raises:
        InputError: there is no such way.
    """
    if speculate is None:
        return None
    if speculate not in SPECULATIONS:
        raise InputError(f"--speculate must be one of {', '.join(SPECULATIONS)}, it is {speculate!r}")
    return NGramDrafter()

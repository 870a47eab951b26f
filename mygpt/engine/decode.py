"""Prefill, one step, and the decode loop that all commands share. It works on token ids only.

Shapes: B sequences, T tokens, V ids that may be sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import torch
from torch import Tensor

from mygpt.engine.sequence import Chooser, Drafter, Drafts, Generation
from mygpt.model.kv_cache import KVCache
from mygpt.model.rope import RotaryEmbedding
from mygpt.options import Sampling

# Tokens a sequence that one forward pass of the prefill takes: what bounds the size of its masks.
PREFILL_CHUNK = 1024


class Model(Protocol):
    """What the loop needs of a model: `GPT.forward`, on whatever placement."""

    @property
    def rope(self) -> RotaryEmbedding:
        """The rotary embedding, which says when a cache is out of date."""

    def allocate_cache(self, batch_size: int, slots: int) -> KVCache:
        """An empty cache."""

    def __call__(
        self,
        ids: Tensor,
        cache: KVCache,
        /,
        *,
        last: list[int] | None = None,
        lengths: list[int] | None = None,
    ) -> Tensor:
        """Logits (B, V) at the place `last` of each sequence of `ids` (B, T); without it (B, T, V), of drafts."""


@torch.inference_mode()
def decode(
    model: Model,
    generations: Sequence[Generation],
    cache: KVCache,
    sampling: Sampling,
    *,
    stop_ids: AbstractSet[int],
    vocab_size: int,
    drafter: Drafter | None = None,
) -> Iterator[list[Generation]]:
    """Generate until every sequence has a finish reason; yields after each token those that got one.

    A drafter changes the speed alone (speculative decoding, arXiv:2211.17192): greedy ids stay what they are, and
    samples follow the same distribution. Plain decoding is the case of empty drafts.

    Args:
        model: the model, or its placement.
        generations: B sequences; their tokens are appended to them.
        cache: B rows, with a slot for every token of each. What it holds of a prompt already is not
            computed again.
        sampling: how tokens are chosen.
        stop_ids: the end tokens.
        vocab_size: ids from here on are padding and never sampled.
        drafter: what proposes tokens.

    Raises:
        RunError: a logit is not finite.
    """
    logits = prefill_distinct(model, cache, [g.prompt_ids for g in generations])[:, None]
    logits = logits[..., :vocab_size]
    chooser = Chooser(sampling, generations, logits)
    drafts = none = Drafts([[]] * len(generations))
    while True:
        yield from _take_run(logits, drafts, generations, cache, chooser, stop_ids)
        if all(g.finish_reason for g in generations):
            return
        if drafter is not None:
            limits = draft_limits(model, cache, generations)
            drafts = drafter.propose(generations, limits, sampling) if any(limits) else none
        logits = step(model, cache, generations, drafts.ids)[..., :vocab_size]


def _take_run(
    logits: Tensor,
    drafts: Drafts,
    generations: Sequence[Generation],
    cache: KVCache,
    chooser: Chooser,
    stop_ids: AbstractSet[int],
) -> Iterator[list[Generation]]:
    """Append what follows by the logits (B, 1 + D, V), as far as the drafts are right; at least one token each.

    Whenever it yields, the cache holds of each sequence all but the newest token, as without drafts.
    """
    rows = [row for row, g in enumerate(generations) if g.finish_reason is None]
    accepted = [0] * len(generations)
    place = 0
    while rows:
        if place:
            cache.advance([int(row in rows) for row in range(len(generations))])
        here = logits[:, place] if len(rows) == len(logits) else logits[rows, place]
        tokens = chooser.choose(here, rows, drafts.at(place, rows, here.shape[-1]))
        for row, token in zip(rows, tokens, strict=True):
            generations[row].append(token, stop_ids)
        yield [generations[row] for row in rows]
        pairs = zip(rows, tokens, strict=True)
        agreed = [row for row, token in pairs if drafts.ids[row][place : place + 1] == [token]]
        for row in agreed:
            accepted[row] += 1
        rows = [row for row in agreed if generations[row].finish_reason is None]
        place += 1
    for generation, draft, count in zip(generations, drafts.ids, accepted, strict=True):
        generation.judge(len(draft), count)


def draft_limits(model: Model, cache: KVCache, generations: Sequence[Generation]) -> list[int]:
    """How many tokens may be drafted for each sequence, so that none of them is in vain or outdates the cache."""
    outdates = model.rope.outdates_cache
    if any(outdates(length, length + 1) for length in cache.lengths):
        return [0] * len(generations)
    limits = []
    for g, length in zip(generations, cache.lengths, strict=True):
        left = g.max_new_tokens - len(g.new_ids) - 1  # after the token that comes in any case
        limit = 0 if g.finish_reason else min(left, g.next_draft)
        limits.append(0 if outdates(length + 1, length + 1 + limit) else limit)
    return limits


def step(
    model: Model, cache: KVCache, generations: Sequence[Generation], drafts: Sequence[list[int]]
) -> Tensor:
    """Logits (B, 1 + D, V) after each sequence's newest token, and after each of its draft. Finished ones stand still.

    The cache counts the newest token as held; those of the draft are there too, for the caller to count.
    """
    counts = [int(g.finish_reason is None) for g in generations]
    if any(model.rope.outdates_cache(length, length + 1) for length in cache.lengths):
        cache.truncate([0] * len(generations))
        return prefill(model, cache, [g.prompt_ids + g.new_ids for g in generations])[:, None]
    width = max(map(len, drafts))
    cache.reserve(max(cache.lengths) + 1 + width)
    rows = [[g.new_ids[-1], *d, *[0] * (width - len(d))] for g, d in zip(generations, drafts, strict=True)]
    ids = torch.tensor(rows, device=cache.device)
    if width == 0:
        logits = model(ids, cache, last=[0] * len(ids))[:, None]
    else:
        lengths = [held + 1 + len(draft) for held, draft in zip(cache.lengths, drafts, strict=True)]
        logits = model(ids, cache, lengths=lengths)
    cache.advance(counts)
    return logits


def keep_common_prefix(model: Model, cache: KVCache, held: Sequence[int], prompt: Sequence[int]) -> int:
    """Cut a cache of one sequence, the ids `held`, back to what a new prompt begins with; returns how much that is.

    The last token of the prompt is computed in any case: its logits are what is wanted.
    """
    pairs = zip(held, prompt[:-1], strict=False)
    common = next(
        (place for place, (old, new) in enumerate(pairs) if old != new), min(len(held), len(prompt) - 1)
    )
    cache.truncate([0 if model.rope.outdates_cache(len(held), len(prompt)) else common])
    return cache.lengths[0]


def prefill(model: Model, cache: KVCache, prompts: Sequence[list[int]]) -> Tensor:
    """Logits (B, V) after each prompt; computes what the cache does not hold of it, in chunks.

    Prompts are padded at the right. A padded place is written to the cache past its sequence's length,
    where no query looks before a real token has taken its slot.
    """
    whole = [len(prompt) for prompt in prompts]
    cache.reserve(max(whole))
    result: Tensor | None = None
    while cache.lengths != whole:
        # The padding behind a short rest needs slots too, also in the row that holds the most.
        chunk = min(PREFILL_CHUNK, cache.slots - max(cache.lengths))
        rests = [prompt[held : held + chunk] for prompt, held in zip(prompts, cache.lengths, strict=True)]
        counts = [len(rest) for rest in rests]
        width = max(counts)
        ids = torch.tensor([rest + [0] * (width - len(rest)) for rest in rests], device=cache.device)
        logits = model(ids, cache, last=[max(count, 1) - 1 for count in counts], lengths=whole)
        # A row that had ended in an earlier chunk keeps the logits of that one.
        new = torch.tensor(counts, device=logits.device)[:, None] > 0
        result = logits if result is None else logits.where(new, result)
        cache.advance(counts)
    assert result is not None, "a prompt that the cache holds whole has no logits: drop its last token first"
    return result


def prefill_distinct(model: Model, cache: KVCache, prompts: Sequence[list[int]]) -> Tensor:
    """As `prefill`, but a prompt that several rows share (`--num_samples`) is computed once."""
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    if len(distinct) == len(prompts) or any(cache.lengths):
        return prefill(model, cache, prompts)
    small = cache.empty_like(len(distinct), max(map(len, distinct)))
    logits = prefill(model, small, [list(prompt) for prompt in distinct])
    rows = [distinct.index(tuple(prompt)) for prompt in prompts]
    cache.reserve(small.slots)
    cache.copy_rows(small, rows)
    return logits[rows]

"""Prefill, one step, and the decode loop that every command shares. Knows ids alone, no text.

Shapes: B sequences, T tokens, V ids that may be sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from mygpt.cache import KVCache
from mygpt.options import Sampling
from mygpt.rope import RotaryEmbedding
from mygpt.sampling import sample

# Tokens a sequence that one forward pass of the prefill takes: what bounds the size of its masks.
PREFILL_CHUNK = 1024


class Model(Protocol):
    """What the loop needs of a model: `GPT.forward`, on whatever placement."""

    @property
    def rope(self) -> RotaryEmbedding:
        """The rotary embedding, which says when a cache is out of date."""

    def __call__(
        self, ids: Tensor, cache: KVCache, /, *, last: list[int], lengths: list[int] | None = None
    ) -> Tensor:
        """Logits (B, V) at the place `last` of each sequence of `ids` (B, T)."""


@dataclass(eq=False)
class Generation:
    """One sequence being generated. Whoever reads it may set `finish_reason` to end it early."""

    prompt_ids: list[int]
    max_new_tokens: int
    seed: int
    new_ids: list[int] = field(default_factory=list)  # the end token too, where one was sampled
    finish_reason: Literal["stop", "length"] | None = None

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def append(self, token: int, stop_ids: AbstractSet[int]) -> None:
        """Take one more token, and see whether it is the last."""
        self.new_ids.append(token)
        if token in stop_ids:
            self.finish_reason = "stop"
        elif len(self.new_ids) == self.max_new_tokens:
            self.finish_reason = "length"


@torch.inference_mode()
def decode(
    model: Model,
    generations: Sequence[Generation],
    cache: KVCache,
    sampling: Sampling,
    *,
    stop_ids: AbstractSet[int],
    vocab_size: int,
) -> Iterator[list[Generation]]:
    """Generate until every sequence has a finish reason; yields after each step those that got a token.

    Args:
        model: the model, or its placement.
        generations: B sequences; their tokens are appended to them.
        cache: B rows, with a slot for every token of each. What it holds of a prompt already is not
            computed again.
        sampling: how tokens are chosen.
        stop_ids: the end tokens.
        vocab_size: ids from here on are padding and never sampled.

    Raises:
        RunError: a logit is not finite.
    """
    logits = prefill_distinct(model, cache, [g.prompt_ids for g in generations])
    seen = _seen(generations, logits) if sampling.repetition_penalty != 1 else None
    while True:
        active = [g for g in generations if g.finish_reason is None]
        uniforms = torch.stack([torch.rand((), generator=g.random, dtype=torch.float64) for g in generations])
        tokens = sample(
            logits[:, :vocab_size], sampling, uniforms, None if seen is None else seen[:, :vocab_size]
        )
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        for generation, token in zip(generations, tokens.tolist(), strict=True):
            if generation.finish_reason is None:
                generation.append(token, stop_ids)
        yield active
        if all(g.finish_reason for g in generations):
            return
        logits = step(model, cache, generations)


def _seen(generations: Sequence[Generation], logits: Tensor) -> Tensor:
    """(B, V) true at the ids of each prompt."""
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    for row, generation in zip(seen, generations, strict=True):
        row[torch.tensor(generation.prompt_ids, device=row.device)] = True
    return seen


def step(model: Model, cache: KVCache, generations: Sequence[Generation]) -> Tensor:
    """Logits (B, V) after each sequence's newest token. Finished sequences stand still."""
    counts = [int(g.finish_reason is None) for g in generations]
    if any(model.rope.outdates_cache(length, length + 1) for length in cache.lengths):
        cache.truncate([0] * len(generations))
        return prefill(model, cache, [g.prompt_ids + g.new_ids for g in generations])
    cache.reserve(max(cache.lengths) + 1)
    ids = torch.tensor([[g.new_ids[-1]] for g in generations], device=cache.device)
    logits = model(ids, cache, last=[0] * len(ids))
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
    cache.copy_rows(small, rows)
    return logits[rows]

"""Prefill: prompts into the cache, in chunks, as far as it does not hold them already.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mygpt.model.causal_lm import PREFILL_CHUNK, CausalLM
from mygpt.model.kv_cache import KVCache


def keep_common_prefix(model: CausalLM, cache: KVCache, held: Sequence[int], prompt: Sequence[int]) -> int:
    """Cut a cache of one sequence, the ids `held`, back to what a new prompt begins with; returns how much that is.

    The last token of the prompt is computed in any case: its logits are what is wanted.
    """
    common = common_prefix(held, prompt[:-1])
    cache.truncate([0 if model.rope.outdates_cache(len(held), len(prompt)) else common])
    return cache.lengths[0]


def prefill(model: CausalLM, cache: KVCache, prompts: Sequence[list[int]]) -> Tensor:
    """Logits (B, V) after each prompt; computes what the cache does not hold of it, in chunks.

    Prompts are padded at the right. Padding is written to the cache past its sequence's length,
    which no query sees before a real token has taken the slot.
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
        logits = model(
            ids, cache, logits_indices=[max(count, 1) - 1 for count in counts], sequence_lengths=whole
        )
        # A row that had ended in an earlier chunk keeps the logits of that one.
        new = torch.tensor(counts, device=logits.device)[:, None] > 0
        result = logits if result is None else logits.where(new, result)
        cache.advance(counts)
    assert result is not None, "a prompt that the cache holds whole has no logits: drop its last token first"
    return result


def prefill_distinct(model: CausalLM, cache: KVCache, prompts: Sequence[list[int]]) -> Tensor:
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


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    if first == second[: len(first)]:  # quickly, the usual case
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))

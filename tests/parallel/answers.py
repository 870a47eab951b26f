"""What a model answers, on whatever devices: what the tests compare."""

from typing import Any

import torch

from mygpt import LLM
from mygpt.decode import keep_common_prefix
from mygpt.options import Sampling
from tests.families.variants import WINDOW

NEW_TOKENS = 20  # past the length at which frequencies may change


def answers(llm: LLM, thorough: bool) -> dict[str, Any]:
    """Logits and greedy ids; with `thorough`, ids in all the ways in which caches are used."""
    torch.manual_seed(1)
    short, long = (torch.randint(llm.config.vocab_size, (length,)).tolist() for length in (2, WINDOW + 3))
    found = {
        "logits": llm.logits([long, long[::-1]]),
        "greedy": llm.generate_ids(long, max_new_tokens=NEW_TOKENS, temperature=0.0),
    }
    if thorough:
        found["sampled"] = sampled(llm, [long, short, long])
        found["turns"] = turns(llm, [long, long[:5] + short, [*long, *short, *long]])
    return found


def sampled(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    """A ragged batch; equal prompts are computed once, and their rows of the cache copied."""
    batch = llm.batch(prompts, Sampling(top_p=0.95), 6, seeds=range(len(prompts)))
    list(batch)
    return [completion.generation.new_ids for completion in batch.completions]


def turns(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    """One prompt after the other over one cache, which grows, and is cut back to what they have in common."""
    cache = llm.loaded.model.allocate_cache(1, 1)
    held: list[int] = []
    found = []
    for prompt in prompts:
        keep_common_prefix(llm.loaded.model, cache, held, prompt)
        batch = llm.batch([prompt], Sampling(temperature=0.0), 4, seeds=[0], cache=cache)
        list(batch)
        found.append(batch.completions[0].generation.new_ids)
        held = (prompt + found[-1])[: cache.lengths[0]]
    return found

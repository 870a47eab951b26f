"""What a model answers, on whatever devices: what the tests compare."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any

import torch

from mygpt import LLM
from mygpt.engine.prefill import keep_common_prefix
from mygpt.engine.scheduler import Scheduler
from mygpt.engine.sequence import Sequence
from mygpt.options import Sampling
from tests.families.variants import WINDOW

NEW_TOKENS = 20  # past the length at which frequencies may change


LOGITS = ("logits",)
IDS = (*LOGITS, "greedy")
THOROUGH = (*IDS, "sampled", "turns", "drafted", "joined")  # in all the ways in which caches are used


def answers(llm: LLM, kinds: SequenceOf[str]) -> dict[str, Any]:
    """Those kinds of answers, each a list of ids but for the logits."""
    torch.manual_seed(1)
    short, long = (torch.randint(llm.config.vocab_size, (length,)).tolist() for length in (2, WINDOW + 3))
    ways: dict[str, Callable[[], Any]] = {
        "logits": lambda: llm.logits([long, long[::-1]]),
        "greedy": lambda: llm.generate_ids(long, max_new_tokens=NEW_TOKENS, temperature=0.0),
        "sampled": lambda: sampled(llm, [long, short, long]),
        "drafted": lambda: llm.generate_ids(
            short * 6, max_new_tokens=NEW_TOKENS, temperature=0.0, speculate="ngram"
        ),
        "joined": lambda: joined(llm, [long, short, long[::-1], short * 3]),
        "turns": lambda: turns(llm, [long, long[:5] + short, [*long, *short, *long]]),
    }
    return {kind: ways[kind]() for kind in kinds}


def sampled(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    """A ragged batch; equal prompts are computed once, and their rows of the cache copied."""
    batch = llm.engine.batch(prompts, Sampling(top_p=0.95), 6, seeds=range(len(prompts)))
    list(batch)
    return [completion.sequence.new_ids for completion in batch.completions]


def joined(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    """Sequences of settings of their own, which join and leave between steps: rows of the cache move."""
    settings = [Sampling(temperature=0.0), Sampling(top_k=9), Sampling(min_p=0.02), Sampling(temperature=0.0)]
    sequences = [
        Sequence(prompt, 3 + 2 * row, row, own)
        for row, (prompt, own) in enumerate(zip(prompts, settings, strict=True))
    ]
    scheduler = Scheduler(llm.loaded.model, vocab_size=llm.loaded.vocab_size)
    for arriving in (sequences[1:3], [], sequences[3:], sequences[:1]):
        scheduler.add(arriving)
        list(scheduler.step())
    while scheduler.has_unfinished:
        list(scheduler.step())
    return [sequence.new_ids for sequence in sequences]


def turns(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    """One prompt after the other over one cache, which grows, and is cut back to what they have in common."""
    cache = llm.loaded.model.allocate_cache(1, 1)
    held: list[int] = []
    found = []
    for prompt in prompts:
        keep_common_prefix(llm.loaded.model, cache, held, prompt)
        batch = llm.engine.batch([prompt], Sampling(temperature=0.0), 4, seeds=[0], cache=cache)
        list(batch)
        found.append(batch.completions[0].sequence.new_ids)
        held = (prompt + found[-1])[: cache.lengths[0]]
    return found

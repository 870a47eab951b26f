"""How samples are shown: text or JSON on standard output, statistics on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mygpt.llm import LLM, Batch, Prompt


def print_text(llm: LLM, batch: Batch, prompts: Sequence[Prompt]) -> None:
    """Each sample's text and a newline. One sample streams; those beside it wait for their turn."""
    shown = 0
    for row, piece in batch:
        if row == shown:
            _write(piece)
        shown = _finish(batch, shown)
    _finish(batch, shown)


def _finish(batch: Batch, shown: int) -> int:
    """End the line of samples that are done and begin the next; returns the sample being shown."""
    while shown < len(batch.completions) and batch.completions[shown].done:
        _write("\n")
        shown += 1
        if shown < len(batch.completions):
            _write(batch.completions[shown].text)
    return shown


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def print_json(llm: LLM, batch: Batch, prompts: Sequence[Prompt]) -> None:
    """One JSON object a sample, a line each, when the batch is done."""
    for _ in batch:
        pass
    loaded, peak = llm.loaded, max(llm.peak_memory())
    for completion, prompt in zip(batch.completions, prompts, strict=True):
        generation = completion.generation
        sample = {
            "prompt": prompt,
            "text": completion.text,
            "token_ids": generation.new_ids,
            "finish_reason": generation.finish_reason,
            "seed": generation.seed,
            "prompt_tokens": len(generation.prompt_ids),
            "new_tokens": len(generation.new_ids),
            "load_s": loaded.load_s,
            "ttft_s": batch.timing.ttft_s,
            "tokens_per_s": batch.timing.tokens_per_s,
            "draft_tokens": generation.draft_tokens,
            "accepted_draft_tokens": generation.accepted_draft_tokens,
            "peak_memory_bytes": peak,
            "device": ",".join(loaded.devices),
            "precision": loaded.precision,
            "quantize": loaded.quantized.mode if loaded.quantized else None,
            "kernels": loaded.kernels,
        }
        _write(json.dumps(sample, ensure_ascii=False) + "\n")


def print_statistics(llm: LLM, batch: Batch, max_new_tokens: int, first: int) -> None:
    """One line on standard error, and a warning where the context ended an answer; `first` counts from 0."""
    from mygpt.engine.detokenizer import speculation  # torch came with the model

    loaded, timing = llm.loaded, batch.timing
    generations = [completion.generation for completion in batch.completions]
    prompt_tokens = sum(len(g.prompt_ids) for g in generations)
    seeds = sorted({g.seed for g in generations})
    speculated = f"{text} | " if (text := speculation(generations)) else ""
    peaks = ", ".join(f"{peak / 1e9:.2f}" for peak in llm.peak_memory())
    quantized = f"{loaded.quantized} | " if loaded.quantized else ""
    print(
        f"{loaded.placement} {loaded.precision} | {quantized}kernels {loaded.kernels} | "
        f"loaded in {loaded.load_s:.2f} s | {prompt_tokens} prompt tokens, "
        f"first token after {timing.ttft_s:.2f} s | {timing.new_tokens} new tokens, "
        f"{timing.tokens_per_s:.1f} tokens/s | {speculated}peak memory {peaks} GB | "
        f"seed {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else ""),
        file=sys.stderr,
    )
    for number, generation in enumerate(generations, first):
        if generation.finish_reason == "length" and len(generation.new_ids) < max_new_tokens:
            print(
                f"warning: sample {number} ended after {len(generation.new_ids)} tokens: the model's context of "
                f"{llm.config.context_length} tokens is full",
                file=sys.stderr,
            )

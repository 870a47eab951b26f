"""Prints samples: text or JSON on standard output, statistics on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mygpt.messages import for_output, tell

if TYPE_CHECKING:
    from mygpt.commands._prompts import Request
    from mygpt.engine.engine import Batch
    from mygpt.engine.sequence import Sequence as EngineSequence
    from mygpt.llm import LLM


def print_text(batch: Batch, *, separated: bool = False, first: int = 0) -> None:
    """Each sample's text and a newline. One sample streams at a time; the others wait.

    `separated` puts an empty line between samples; `first` counts, from 0, those of earlier batches.
    """
    between = "\n" if separated else ""
    if first:
        _write(between)
    shown = 0
    for row, piece in batch:
        if row == shown:
            _write(piece)
        shown = _finish(batch, shown, between)
    _finish(batch, shown, between)


def _finish(batch: Batch, shown: int, between: str) -> int:
    """End the line of finished samples and begin the next; returns the index of the sample being shown."""
    while shown < len(batch.completions) and batch.completions[shown].done:
        _write("\n")
        shown += 1
        if shown < len(batch.completions):
            _write(between + batch.completions[shown].text)
    return shown


def _write(text: str) -> None:
    sys.stdout.write(for_output(text, sys.stdout))
    sys.stdout.flush()


def print_json(llm: LLM, batch: Batch, requests: Sequence[Request]) -> None:
    """One JSON object per sample, each on a line, when the batch is done."""
    for _ in batch:
        pass
    loaded, peak = llm.loaded, max(llm.peak_memory())
    for completion, request in zip(batch.completions, requests, strict=True):
        sequence = completion.sequence
        sample = {
            **({} if request.id is None else {"id": request.id}),
            "prompt": request.prompt,
            "text": completion.text,
            "token_ids": sequence.new_ids,
            "finish_reason": sequence.finish_reason,
            "seed": sequence.seed,
            "prompt_tokens": len(sequence.prompt_ids),
            "new_tokens": len(sequence.new_ids),
            "load_s": loaded.load_s,
            "ttft_s": batch.timing.ttft_s,
            "tokens_per_s": batch.timing.tokens_per_s,
            "draft_tokens": sequence.draft_tokens,
            "accepted_draft_tokens": sequence.accepted_draft_tokens,
            "peak_memory_bytes": peak,
            "device": ",".join(loaded.devices),
            "precision": loaded.precision,
            "quantize": loaded.quantized.scheme if loaded.quantized else None,
            "kernels": loaded.kernels,
        }
        _write(json.dumps(sample, ensure_ascii=False) + "\n")


def print_statistics(llm: LLM, batch: Batch, limits: Sequence[int], first: int) -> None:
    """One line on standard error, and a note where an answer was cut.

    `limits` are the most tokens that were asked for, of each sample; `first` counts samples of earlier batches.
    """
    from mygpt.engine.detokenizer import draft_statistics  # torch came with the model

    loaded, timing = llm.loaded, batch.timing
    sequences = [completion.sequence for completion in batch.completions]
    prompt_tokens = sum(len(s.prompt_ids) for s in sequences)
    seeds = sorted({s.seed for s in sequences})
    speculated = f"{text} | " if (text := draft_statistics(sequences)) else ""
    peaks = ", ".join(f"{peak / 1e9:.2f}" for peak in llm.peak_memory())
    quantized = f"{loaded.quantized} | " if loaded.quantized else ""
    tell(
        f"{loaded.placement} {loaded.precision} | {quantized}kernels {loaded.kernels} | "
        f"loaded in {loaded.load_s:.2f} s | {prompt_tokens} prompt tokens, "
        f"first token after {timing.ttft_s:.2f} s | {timing.new_tokens} new tokens, "
        f"{timing.tokens_per_s:.1f} tokens/s | {speculated}peak memory {peaks} GB | "
        f"seed {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
    )
    for number, (sequence, limit) in enumerate(zip(sequences, limits, strict=True), first):
        if sequence.finish_reason == "length":
            which = "the answer" if not first and len(sequences) == 1 else f"answer {number}"
            tell(f"{which} was cut after {_cut(sequence, limit, llm)}")


def _cut(sequence: EngineSequence, limit: int, llm: LLM) -> str:
    n_tokens = len(sequence.new_ids)
    if n_tokens < limit:
        return f"{n_tokens} tokens: the model's context of {llm.config.context_length} tokens is full"
    return f"{n_tokens} tokens: --max_new_tokens {2 * limit} lets it go on"

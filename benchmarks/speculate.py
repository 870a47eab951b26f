"""What speculation gains: tokens/s with drafts against those without, in turn in one process; and are the ids the same?

    python benchmarks/speculate.py CHECKPOINT [--lead 128] [--draft_layers 2]

`--speculate ngram` on a text that repeats itself, greedy. Random weights do not repeat what they read, but what they
wrote themselves: give them a `--lead`. With `--draft_layers N` a draft model too, greedy and
sampling: the model's own first N layers, after the matrices by which the other layers add to the residual stream
were scaled down by `DAMPING`, so that both agree mostly. Such a pair tells what agreement gains, whatever the
weights; the damped model costs what the whole one does. Ratios are medians over the rounds, after one to warm up.

In bfloat16 several tokens at once are rounded otherwise than one, and where two logits are that near, greedy ids
part: `equal_ids` counts those before, `same_ids` says whether that is all. In float32 (`--precision 32-true`) they
are the same.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from report import print_report

from mygpt import LLM
from mygpt.engine.drafts import Drafter
from mygpt.engine.speculation import ModelDrafter, NGramDrafter
from mygpt.model.gpt import GPT
from mygpt.options import Sampling

PAUSE_S = 0.3  # before a run: threads of the one before may spin a while
DAMPING = 1e-3
TEXT = (
    "Q: Where does the boat go? A: The boat goes past the white cliffs towards the harbour.\n"
    "Q: Where does the train go? A: The train goes past the green hills towards the city.\n"
) * 3
GREEDY, SAMPLED = Sampling(temperature=0.0), Sampling()


def run(llm: LLM, prompt: list[int], sampling: Sampling, drafter: Drafter | None, n: int) -> dict[str, Any]:
    """One generation."""
    time.sleep(PAUSE_S)
    batch = llm.engine.batch([prompt], sampling, n, seeds=[0], drafter=drafter)
    for _ in batch:
        pass
    generation = batch.completions[0].sequence
    return {
        "ids": generation.new_ids,
        "tokens_per_s": batch.timing.tokens_per_s,
        "draft_tokens": generation.draft_tokens,
        "accepted_draft_tokens": generation.accepted_draft_tokens,
    }


def compare(
    llm: LLM, prompt: list[int], sampling: Sampling, model: GPT | None, args: argparse.Namespace
) -> dict[str, Any]:
    """Without and with drafts, again and again; without `model` they are n-grams."""
    plain, drafted = [], []
    for _ in range(args.repeats + 1):
        plain.append(run(llm, prompt, sampling, None, args.new_tokens))
        drafter = NGramDrafter() if model is None else ModelDrafter(model, llm.loaded.vocab_size)
        drafted.append(run(llm, prompt, sampling, drafter, args.new_tokens))
    ids = [[r["ids"] for r in runs] for runs in (plain, drafted)]
    pairs = list(zip(plain[1:], drafted[1:], strict=True))
    ratios = [b["tokens_per_s"] / a["tokens_per_s"] for a, b in pairs]
    results = {
        "plain_tokens_per_s": median(a["tokens_per_s"] for a, _ in pairs),
        "tokens_per_s": median(b["tokens_per_s"] for _, b in pairs),
        "ratio": median(ratios),
        "ratios": ratios,
        "draft_tokens": drafted[0]["draft_tokens"],
        "accepted_draft_tokens": drafted[0]["accepted_draft_tokens"],
    }
    if sampling.greedy:
        equal = equal_ids(ids[0][0], ids[1][0])
        results |= {"equal_ids": equal, "same_ids": equal == args.new_tokens}
    return results


def equal_ids(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids agree before the first that does not."""
    same = [a == b for a, b in zip(first, second, strict=True)]
    return [*same, False].index(False)


@torch.no_grad()
def make_pair(model: GPT, n: int) -> GPT:
    """Damp all layers but the first n; returns a model of these alone, which shares them."""
    for name, parameter in model.layers[n:].named_parameters():
        if name.split(".")[-2] in ("output", "down"):
            parameter.mul_(DAMPING)
    with torch.device("meta"):
        draft = GPT(replace(model.config, n_layers=n))
    draft.embed, draft.position_embed = model.embed, model.position_embed
    draft.layers = model.layers[:n]
    draft.norm, draft.head, draft.context_builder = model.norm, model.head, model.context_builder
    return draft.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure speculation; see the top of this file.")
    parser.add_argument("checkpoint", help="a folder, .gguf file or Hub repository")
    parser.add_argument("--precision", default="bf16-true")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--new_tokens", type=int, default=96)
    parser.add_argument(
        "--lead", type=int, default=0, help="tokens of its own that the prompt is continued by"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draft_layers", type=int, default=0, help="of the draft model; 0 for none")
    args = parser.parse_args()
    llm = LLM.load(args.checkpoint, precision=args.precision, accelerator=args.accelerator)
    prompt = llm.encode(TEXT, raw_prompt=True)
    llm = LLM(replace(llm.loaded, stop_ids=frozenset(), prompt_encoder=None))  # ids are what is measured
    if args.lead:
        prompt = prompt + run(llm, prompt, GREEDY, NGramDrafter(), args.lead)["ids"]
    results = {"ngram": compare(llm, prompt, GREEDY, None, args)}
    if args.draft_layers:
        model = llm.loaded.model
        assert isinstance(model, GPT)
        whole = sum(p.numel() for p in model.parameters())
        draft = make_pair(model, args.draft_layers)
        sizes = {"times_smaller": whole / sum(p.numel() for p in draft.parameters())}
        results["draft_greedy"] = sizes | compare(llm, prompt, GREEDY, draft, args)
        results["draft_sampled"] = sizes | compare(llm, prompt, SAMPLED, draft, args)
    for name, result in results.items():
        share = result["accepted_draft_tokens"] / max(result["draft_tokens"], 1)
        print(
            f"{name}: {result['plain_tokens_per_s']:.1f} tokens/s, with drafts {result['tokens_per_s']:.1f}, ratio "
            f"{result['ratio']:.2f}; {share:.0%} of {result['draft_tokens']} draft tokens accepted"
            + (f"; {result['equal_ids']} of {args.new_tokens} ids equal" if "equal_ids" in result else "")
        )
    print_report("speculate", vars(args) | {"threads": torch.get_num_threads(), **results})


if __name__ == "__main__":
    main()

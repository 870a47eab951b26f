"""How fast a model decodes, and how near that is to the speed at which memory can be read.

    python benchmarks/decode.py CHECKPOINT --precision bf16-true [--peer_python PATH]

Runs prompts of random ids through mygpt's decode loop, greedy, with no end token, in one process: one run to
warm up, then `--repeats` that count; medians of those. Each is followed by a run of the peer, if there is
one (litgpt, in its own process and environment, see peer_litgpt.py), and by one that reads memory alone, so
that all three see the machine in the same state.

- time to first token: from the prompt's ids to the first new id. `cold`: that of the run that warms up.
- decode tokens/s: of the whole batch, after the first token of each.
- bytes per token: what a step cannot avoid to read, over the tokens it gives: every weight (of an embedding
  that is not the head as well, only a row, left out) and the keys and values of the tokens so far.
- GB/s: bytes per token times tokens/s. The limit to hold it against is the best of summing a float32 tensor,
  larger than the caches (`--read_gb`), and of multiplying it with a vector, by the same threads.
- `--against_context N`: the same behind prompts of N tokens, in turn; `extra_context_gb_per_s` is what the caches
  of both differ by over the time that a step takes longer: the memory's speed where a longer context costs its
  bytes alone.
- peak memory: resident memory of the process (on a GPU: allocated) after load and first run.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peer import Peer
from report import print_report
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.hub.resolve import resolve
from mygpt.options import Sampling

PAUSE_S = 0.3  # before a run: threads of the one before may spin a while (0.2 s in Intel's OpenMP)
ROWS = {  # of the table: the result and what to divide it by
    "load, s": ("load_s", 1),
    "first token, cold, s": ("cold_ttft_s", 1),
    "first token, s": ("ttft_s", 1),
    "prefill, tokens/s": ("prefill_tokens_per_s", 1),
    "decode, tokens/s": ("decode_tokens_per_s", 1),
    "ratio to the peer's": ("ratio_to_peer", 1),
    "decode, other context, tokens/s": ("against_decode_tokens_per_s", 1),
    "a longer context's, GB/s": ("extra_context_gb_per_s", 1),
    "read for a token, MB": ("bytes_per_token", 1e6),
    "read, GB/s": ("gb_per_s", 1),
    "the limit, GB/s": ("limit_gb_per_s", 1),
    "peak memory, MB": ("peak_memory_bytes", 1e6),
}


def start_litgpt(folder: Path, args: argparse.Namespace) -> Peer:
    """litgpt, in its own environment."""
    script = Path(__file__).with_name("peer_litgpt.py")
    slots = args.context + args.new_tokens
    options = [args.precision, args.accelerator, slots, torch.get_num_threads()]
    return Peer([args.peer_python, script, folder, *options])


def random_prompts(vocab_size: int, batch_size: int, context: int) -> list[list[int]]:
    """Different ones, for a prompt that a batch shares is computed but once."""
    generator = torch.Generator().manual_seed(0)
    ids: list[list[int]] = torch.randint(vocab_size, (batch_size, context), generator=generator).tolist()
    return ids


def run(llm: LLM, prompts: Sequence[list[int]], new_tokens: int) -> dict[str, Any]:
    """One generation of mygpt's, with what `peer_litgpt.run` tells of its."""
    batch = llm.engine.batch(prompts, Sampling(temperature=0), new_tokens, seeds=range(len(prompts)))
    for _ in batch:
        pass
    ids = batch.completions[0].sequence.new_ids
    return {"ttft_s": batch.timing.ttft_s, "tokens_per_s": batch.timing.tokens_per_s, "ids": ids}


def bytes_per_token(llm: LLM, batch_size: int, context: int, new_tokens: int) -> int:
    """Weights that a step reads, shared by the batch, and a sequence's keys and values: the mean over steps."""
    model = llm.loaded.model
    unread = 0 if llm.config.tie_embeddings else model.embed.weight.nbytes
    quantized = llm.loaded.quantized.nbytes if llm.loaded.quantized else 0
    weights = sum(p.nbytes for p in model.parameters()) + quantized - unread
    return round(weights / batch_size + slot_bytes(llm) * (context + new_tokens / 2))


def slot_bytes(llm: LLM) -> int:
    """Of a token's keys and values in all layers."""
    return llm.loaded.model.allocate_cache(batch_size=1, slots=1).nbytes


def read_speed(numbers: Tensor) -> float:
    """GB/s at which the threads, or the GPU, read plain numbers: the best of a few passes."""
    matrix = numbers.view(-1, 4096)
    vector = numbers.new_ones(matrix.shape[1])
    seconds = []
    for _ in range(3):
        for read in (matrix.sum, lambda: (matrix @ vector)[0]):
            start = time.perf_counter()
            read().item()  # waits for the GPU
            seconds.append(time.perf_counter() - start)
    return numbers.nbytes / min(seconds) / 1e9


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load, warm up, run, sum up."""
    folder = resolve(args.checkpoint)
    # before the model: both load alone, and a process starts with its parent's peak memory as its own
    peer = start_litgpt(folder, args) if args.peer_python else None
    options = {"accelerator": args.accelerator, "quantize": args.quantize, "compile": args.compile == "true"}
    llm = LLM.load(str(folder), precision=args.precision, **options)
    # without its end tokens, and without its tokenizer: ids are what is measured
    llm = LLM(replace(llm.loaded, stop_ids=frozenset(), prompt_encoder=None))
    prompts = random_prompts(llm.config.vocab_size, args.batch_size, args.context)
    programs = {"mygpt": lambda: run(llm, prompts, args.new_tokens)}
    if args.against_context is not None:
        others = random_prompts(llm.config.vocab_size, args.batch_size, args.against_context)
        programs["against"] = lambda: run(llm, others, args.new_tokens)
    if peer:
        programs["litgpt"] = lambda: peer.ask({"prompt": prompts[0], "new_tokens": args.new_tokens})
    warm = {name: program() for name, program in programs.items()}
    peak = max(llm.peak_memory())  # before the tensor that is read for the limit
    numbers = torch.ones(int(args.read_gb * 1e9) // (4 * 4096) * 4096, device=llm.loaded.device)
    runs = interleave({**programs, "limit": lambda: read_speed(numbers)}, args.repeats)
    results = summary(warm["mygpt"], runs["mygpt"], args) | {
        "device": device_name(llm),
        "threads": torch.get_num_threads(),
        "load_s": llm.loaded.load_s,
        "bytes_per_token": bytes_per_token(llm, args.batch_size, args.context, args.new_tokens),
        "limit_gb_per_s": median(runs["limit"]),
        "peak_memory_bytes": peak,
    }
    results["gb_per_s"] = results["bytes_per_token"] * results["decode_tokens_per_s"] / 1e9
    results["share_of_limit"] = results["gb_per_s"] / results["limit_gb_per_s"]
    if args.against_context is not None:
        results |= against(
            runs, (args.context - args.against_context) * slot_bytes(llm) * args.batch_size, args
        )
    if peer:
        peer.close()
        theirs = peer.versions | summary(warm["litgpt"], runs["litgpt"], args)
        results["peer"] = theirs | {"equal_ids": equal_ids(warm["mygpt"]["ids"], warm["litgpt"]["ids"])}
        results["ratio_to_peer"] = results["decode_tokens_per_s"] / theirs["decode_tokens_per_s"]
        both = zip(runs["mygpt"], runs["litgpt"], strict=True)
        results["ratio_to_peer_runs"] = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in both]
    return results


def against(runs: Mapping[str, Any], more_bytes: int, args: argparse.Namespace) -> dict[str, float]:
    """What a step takes longer than behind the other context."""
    seconds = [
        args.batch_size / ours["tokens_per_s"] - args.batch_size / other["tokens_per_s"]
        for ours, other in zip(runs["mygpt"], runs["against"], strict=True)
    ]
    return {
        "against_decode_tokens_per_s": median(run["tokens_per_s"] for run in runs["against"]),
        "extra_context_bytes": more_bytes,
        "extra_context_ms": median(seconds) * 1e3,
        "extra_context_gb_per_s": more_bytes / median(seconds) / 1e9,
    }


def interleave(programs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """What the programs return, each run in turn, again and again."""
    runs: dict[str, list[Any]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            time.sleep(PAUSE_S)
            runs[name].append(program())
    return runs


def summary(
    warm: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    """Medians, and each run's speed of decoding."""
    ttft = median(r["ttft_s"] for r in runs)
    speeds = [r["tokens_per_s"] for r in runs]
    return {
        "cold_ttft_s": warm["ttft_s"],
        "ttft_s": ttft,
        "prefill_tokens_per_s": args.batch_size * args.context / ttft,
        "decode_tokens_per_s": median(speeds),
        "decode_tokens_per_s_runs": speeds,
    }


def equal_ids(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many ids agree before rounding parts the two: a sign that both do the same work."""
    same = [a == b for a, b in zip(ours, theirs, strict=True)]
    return [*same, False].index(False)


def device_name(llm: LLM) -> str:
    device = llm.loaded.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def print_table(results: Mapping[str, Any]) -> None:
    columns = {"mygpt": results, **({"litgpt": results["peer"]} if "peer" in results else {})}
    table = Table("", *columns)
    for label, (key, scale) in ROWS.items():
        cells = [f"{column[key] / scale:.4g}" if key in column else "" for column in columns.values()]
        if any(cells):
            table.add_row(label, *cells)
    Console().print(table)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure decoding; see the top of this file.")
    parser.add_argument("checkpoint", help="a folder, .gguf file or Hub repository")
    parser.add_argument("--precision", default="bf16-true")
    parser.add_argument("--quantize", help="as of mygpt's commands")
    parser.add_argument("--compile", choices=["true", "false"], default="false")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--context", type=int, default=36, help="tokens of each prompt")
    parser.add_argument("--against_context", type=int, help="tokens of other prompts, in turn with these")
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens to generate after each prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--read_gb", type=float, default=2.0, help="size of the plain read")
    parser.add_argument("--peer_python", help="python of an environment with litgpt, to compare with")
    args = parser.parse_args()
    if args.new_tokens < 2:
        parser.error("--new_tokens must be 2 or above: the first is the prefill's")
    if args.peer_python and args.batch_size > 1:
        parser.error("--peer_python takes --batch_size 1: litgpt generate runs one sequence at a time")
    return args


def main() -> None:
    args = options()
    try:
        results = measure(args)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    print_table(results)
    print_report("decode", vars(args) | results)


if __name__ == "__main__":
    main()

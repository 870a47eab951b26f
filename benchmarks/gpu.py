"""All that is to be known of a GPU, in one call: first that it computes what the CPU does, then how fast.

    python benchmarks/gpu.py                      # Llama-3-8B's shape in bfloat16, random weights (16 GB of disk)
    python benchmarks/gpu.py --accelerator cpu --tiny true     # the same program small, to see that it runs

- correct: float32 logits of a tiny model on the device against the CPU's, relative to their scale; greedy ids.
- limit: GB/s at which the device copies memory, read and written bytes together.
- decode: tokens/s of one sequence, of 8, compiled, in bnb.nf4, and with the last layers on the CPU.
  `share_of_limit`: the bytes that a token must read, times tokens/s, over the limit.
- prefill: tokens of a prompt over the time to the first new one.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from make_model import RANDOM, make_random
from report import print_report
from rich.console import Console
from rich.table import Table

from mygpt import LLM
from mygpt.options import Sampling


def correct(folder: Path, accelerator: str) -> dict[str, Any]:
    """How far the device's logits are from the CPU's, in float32, and whether it writes the same ids."""
    prompt = torch.arange(40) % RANDOM["tiny"]["vocab_size"]
    ours, cpu = (
        LLM.load(str(folder), precision="32-true", accelerator=kind) for kind in (accelerator, "cpu")
    )
    theirs = cpu.logits(prompt[None])
    error = float((ours.logits(prompt[None]) - theirs).abs().max() / theirs.abs().max())
    ids = [llm.generate_ids(prompt.tolist(), max_new_tokens=20, temperature=0.0) for llm in (ours, cpu)]
    assert error < 1e-4, f"the device's logits are {error} off"
    assert ids[0] == ids[1], "the device writes other ids"
    return {"relative_error": error, "ids_equal": True}


def copy_speed(device: torch.device, gigabytes: float) -> float:
    """GB/s, read and written together: the best of a few copies."""
    source = torch.ones(int(gigabytes * 1e9) // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds) / 1e9


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed(folder: Path, args: argparse.Namespace, batch_size: int, **options: Any) -> dict[str, Any]:
    """Medians of decode and prefill of a model loaded with some options."""
    options = {"precision": "bf16-true", "accelerator": args.accelerator, **options}
    llm = LLM.load(str(folder), **options)
    llm = LLM(replace(llm.loaded, stop_ids=frozenset(), prompt_encoder=None))
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(llm.config.vocab_size, (batch_size, args.prompt), generator=generator).tolist()
    decode, prefill = [], []
    for number in range(args.repeats + 1):
        batch = llm.engine.batch(prompts, Sampling(temperature=0), args.new_tokens, seeds=range(batch_size))
        for _ in batch:
            pass
        if number:
            decode.append(batch.timing.tokens_per_s)
            prefill.append(batch_size * args.prompt / batch.timing.ttft_s)
    model = llm.loaded.model
    tied = 0 if llm.config.tie_embeddings else model.embed.weight.nbytes  # a row of it is read
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()]) - tied
    return {
        "decode_tokens_per_s": median(decode),
        "prefill_tokens_per_s": median(prefill),
        "read_bytes": held,
        "load_s": llm.loaded.load_s,
        "peak_memory_bytes": llm.peak_memory(),
    }


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    device = torch.device(args.accelerator)
    tiny, folder = scratch / "tiny", scratch / "model"
    make_random("tiny", tiny)
    results: dict[str, Any] = {"correct": correct(tiny, args.accelerator)}
    if args.tiny:
        folder = tiny
    else:
        make_random("8B", folder)
    limit = copy_speed(device, 0.01 if args.tiny else 4.0)
    runs: dict[str, dict[str, Any]] = {"batch 1": {}, "batch 8": {"batch_size": 8}}
    runs["bnb.nf4"] = {"quantize": "bnb.nf4"}
    if device.type == "cuda":
        runs["compiled"] = {"compile": True}
        runs["cuda:0,cpu"] = {"devices": "cuda:0,cpu", "strategy": "sequential"}
    speeds = {name: speed(folder, args, **{"batch_size": 1, **options}) for name, options in runs.items()}
    for name, result in speeds.items():
        rows = runs[name].get("batch_size", 1)
        result["share_of_limit"] = result["read_bytes"] * result["decode_tokens_per_s"] / rows / 1e9 / limit
    nf4 = speeds["bnb.nf4"]["decode_tokens_per_s"] / speeds["batch 1"]["decode_tokens_per_s"]
    return results | {"limit_gb_per_s": limit, "speeds": speeds, "nf4_over_bf16": nf4}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure a GPU; see the top of this file.")
    parser.add_argument("--accelerator", default="cuda")
    parser.add_argument("--tiny", type=lambda text: text == "true", default=False)
    parser.add_argument("--prompt", type=int, default=400, help="tokens of each prompt")
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    args = options()
    with TemporaryDirectory() as scratch:
        results = measure(args, Path(scratch))
    name = torch.cuda.get_device_name() if args.accelerator == "cuda" else args.accelerator
    table = Table("", "decode, tokens/s", "of the limit", "prefill, tokens/s")
    for run, result in results["speeds"].items():
        cells = [result[f"{kind}_tokens_per_s"] for kind in ("decode", "prefill")]
        table.add_row(run, f"{cells[0]:.4g}", f"{result['share_of_limit']:.0%}", f"{cells[1]:.4g}")
    Console().print(table)
    print_report("gpu", vars(args) | {"device": name} | results)


if __name__ == "__main__":
    main()

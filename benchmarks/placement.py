"""What it costs to run a model in parts or on several ranks, on the CPU, and what a rank needs of memory.

    python benchmarks/placement.py CHECKPOINT --precision bf16-true

Three placements of the same model, each in processes of its own, which wait while another runs:

- one: a process of `--threads` threads;
- sequential: the same with the layers in three parts;
- tensor: tensor parallelism over `--threads` ranks of one thread each.

Each round runs one generation on each in turn (random ids, greedy, no end token); decode tokens/s, and the ratio to
`one` of the same round; medians over the rounds. Memory: the peak of resident memory of a process after its first
generation, less what it was before it loaded anything; of the ranks, the largest.
"""

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

from report import print_report

PARTS = 3


class Worker:
    """One placement, in a process (or as many as it has ranks) of its own."""

    def __init__(self, args: argparse.Namespace, strategy: str, devices: int, threads: int) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", strategy, "--devices", str(devices)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        self.memory: int = self.run()["memory_bytes"]  # the generation that warms up

    def run(self) -> dict[str, Any]:
        """One generation."""
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with code {self.process.wait()}")
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        """End the processes."""
        self.process.communicate()


def work(args: argparse.Namespace) -> None:
    """What a worker does: a generation for each line that it reads."""
    from dataclasses import replace

    import torch

    from mygpt import LLM
    from mygpt.errors import InputError
    from mygpt.options import Sampling
    from mygpt.parallel.devices import peak_memory_bytes

    if args.worker == "tensor":
        import lightning.fabric  # noqa: F401  # a part of the interpreter's own memory
    before = peak_memory_bytes(torch.device("cpu"))
    strategy = None if args.worker == "one" else args.worker
    options = {"precision": args.precision, "accelerator": "cpu"}
    try:
        llm = LLM.load(args.checkpoint, **options, devices=args.devices, strategy=strategy)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    llm = LLM(replace(llm.loaded, stop_ids=frozenset(), prompt_encoder=None))
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(llm.config.vocab_size, (args.context,), generator=generator).tolist()
    for _ in sys.stdin:
        batch = llm.engine.batch([prompt], Sampling(temperature=0), args.new_tokens, seeds=[0])
        list(batch)
        memory = max(llm.peak_memory()) - before
        print(json.dumps({"tokens_per_s": batch.timing.tokens_per_s, "memory_bytes": memory}), flush=True)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start the workers, run the rounds, sum up."""
    workers = {
        "one": Worker(args, "one", 1, args.threads),
        "sequential": Worker(args, "sequential", PARTS, args.threads),
        "tensor": Worker(args, "tensor", args.threads, 1),
    }
    rounds = [
        {name: worker.run()["tokens_per_s"] for name, worker in workers.items()} for _ in range(args.repeats)
    ]
    for worker in workers.values():
        worker.close()
    return {
        "tokens_per_s": {name: median(r[name] for r in rounds) for name in workers},
        "ratios_to_one": {name: median(r[name] / r["one"] for r in rounds) for name in workers},
        "memory_bytes": {name: worker.memory for name, worker in workers.items()},
        "memory_ratios_to_one": {
            name: worker.memory / workers["one"].memory for name, worker in workers.items()
        },
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure placements; see the top of this file.")
    parser.add_argument("checkpoint", help="a folder, .gguf file or Hub repository")
    parser.add_argument("--precision", default="bf16-true")
    parser.add_argument("--context", type=int, default=36, help="tokens of the prompt")
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens to generate")
    parser.add_argument("--threads", type=int, default=2, help="of one process, and ranks of one thread")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    results = measure(args)
    for name, speed in results["tokens_per_s"].items():
        memory = (
            f"{results['memory_bytes'][name] / 1e6:8.0f} MB  {results['memory_ratios_to_one'][name]:5.2f}"
        )
        print(f"{name:<12} {speed:8.2f} tokens/s  {results['ratios_to_one'][name]:5.2f}  {memory}")
    print_report(
        "placement", {k: v for k, v in vars(args).items() if k not in ("worker", "devices")} | results
    )


if __name__ == "__main__":
    main()

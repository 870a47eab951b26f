"""What a batch gains: tokens/s of 8 samples as one batch, against those of a single sample.

    python benchmarks/samples.py CHECKPOINT

Through `mygpt generate --json true`, each run a process of its own, one sample and the batch in turn; medians.
The tokens per second are the command's own: of the whole batch, after the first token of each sample. An end
token ends its sample early and leaves its place in the batch idle; `new_tokens` tells how many there were.
"""

import argparse
import json
import subprocess
import sys
from statistics import median
from typing import Any

from report import print_report


def generate(args: argparse.Namespace, num_samples: int) -> dict[str, Any]:
    """One run of the command: its tokens/s and how many tokens there were."""
    options = ["--prompt", args.prompt, "--raw_prompt", "true", "--json", "true", "--seed", "0"]
    options += ["--max_new_tokens", str(args.new_tokens), "--num_samples", str(num_samples)]
    options += ["--precision", args.precision]
    command = [sys.executable, "-m", "mygpt", "generate", args.checkpoint, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        "tokens_per_s": samples[0]["tokens_per_s"],  # each of them tells that of the batch
        "new_tokens": sum(sample["new_tokens"] for sample in samples),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a batch of samples; see the top of this file.")
    parser.add_argument("checkpoint", help="a folder, .gguf file or Hub repository")
    parser.add_argument("--num_samples", type=int, default=8)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--precision", default="bf16-true")
    parser.add_argument("--prompt", default="Once upon a time, in a village by the sea,")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rounds = [[generate(args, count) for count in (1, args.num_samples)] for _ in range(args.repeats)]
    one, batch = (median(run["tokens_per_s"] for run in runs) for runs in zip(*rounds, strict=True))
    print(f"1 sample: {one:.1f} tokens/s; {args.num_samples}: {batch:.1f}; ratio {batch / one:.2f}")
    results = {"one_tokens_per_s": one, "batch_tokens_per_s": batch, "ratio": batch / one, "rounds": rounds}
    print_report("samples", vars(args) | results)


if __name__ == "__main__":
    main()

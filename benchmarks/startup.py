"""How long a command takes from process start, against the imports that it cannot do without.

    python benchmarks/startup.py [--repeats 5]

To the exit; `first_token` is `generate` again, to the first byte on its standard output. Each round starts every
program once, in turn; medians of the rounds, and their ratios to the imports of torch and of Fabric. What the
first round alone pays (it compiles bytecode, reads files from the disk, fetches the default model if it is not
here) is an outlier that the median of five drops.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from report import print_report

MYGPT = str(Path(sys.executable).with_name("mygpt"))  # the installed command, as users start it


def programs(checkpoint: str | None) -> dict[str, list[str]]:
    prompt = ["--prompt", "What is the capital of France?", "--max_new_tokens", "1", "--temperature", "0"]
    return {
        "import_torch": [sys.executable, "-c", "import torch"],
        "import_fabric": [sys.executable, "-c", "from lightning.fabric import Fabric"],
        "help": [MYGPT, "--help"],
        "generate": [MYGPT, "generate", *([checkpoint] if checkpoint else []), *prompt],
    }


def seconds(command: list[str]) -> tuple[float, float]:
    """Until the first byte of the output, and until the exit; both are the exit where there is no output."""
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            first = time.perf_counter() - start
            process.stdout.read()
        took = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()}")
    return first, took


def one_round(commands: dict[str, list[str]]) -> dict[str, float]:
    found = {name: seconds(command) for name, command in commands.items()}
    return {name: took for name, (_, took) in found.items()} | {"first_token": found["generate"][0]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure start-up; see the top of this file.")
    parser.add_argument("--checkpoint", help="by default the default model")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    commands = programs(args.checkpoint)
    rounds = [one_round(commands) for _ in range(args.repeats)]
    medians = {name: median(r[name] for r in rounds) for name in rounds[0]}
    ratios = {
        f"ratios_to_{base}": {name: value / medians[base] for name, value in medians.items()}
        for base in ("import_torch", "import_fabric")
    }
    for name, value in medians.items():
        of_torch, of_fabric = (of_base[name] for of_base in ratios.values())
        print(f"{name:<14} {value:6.2f} s  {of_torch:5.2f} x import_torch  {of_fabric:5.2f} x import_fabric")
    print_report("startup", {"seconds": medians, **ratios, "rounds": rounds})


if __name__ == "__main__":
    main()

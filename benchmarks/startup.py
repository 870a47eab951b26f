"""How long a command takes from process start to exit, against the imports that it cannot do without.

    python benchmarks/startup.py [--repeats 5]

Each round starts every program once, in turn; medians of the rounds, and their ratios to the import of
Fabric. What the first round alone pays (it compiles bytecode, reads files from the disk, fetches the default
model if it is not here) is an outlier that the median of five drops.
"""

import argparse
import subprocess
import sys
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


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure start-up; see the top of this file.")
    parser.add_argument("--checkpoint", help="by default the default model")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    commands = programs(args.checkpoint)
    rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(args.repeats)]
    medians = {name: median(r[name] for r in rounds) for name in commands}
    ratios = {name: value / medians["import_fabric"] for name, value in medians.items()}
    for name, value in medians.items():
        print(f"{name:<14} {value:6.2f} s  {ratios[name]:5.2f} x import_fabric")
    print_report("startup", {"seconds": medians, "ratios_to_import_fabric": ratios, "rounds": rounds})


if __name__ == "__main__":
    main()

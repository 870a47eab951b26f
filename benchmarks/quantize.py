"""What each mode of --quantize costs and gives: memory, time to load, speed of decoding, quality.

    python benchmarks/quantize.py CHECKPOINT [--llama_cpp GGUF] [--perplexity true]

- load: in a process of its own for each mode, as the page cache has the file; the peak of resident memory above that
  of an idle interpreter with torch imported. `stored`: of a folder that `mygpt convert` made, in a temporary folder.
- decode tokens/s: as decode.py measures it. All modes stay loaded and take turns, so that they share what else the
  machine does; medians, and the median of each turn's ratio to bfloat16.
- perplexity (with `--perplexity true`; random weights have none worth the time): exp of the mean loss of each next
  token of text/lighthouse.txt, which was written for this and stands in no training set, at once, without a template.
- `--llama_cpp`: a GGUF file of the same model, which llama-cpp-python, if it is installed, decodes in the same turns.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from decode import interleave, random_prompts, run
from report import print_report
from rich.console import Console
from rich.table import Table

from mygpt import LLM
from mygpt.checkpoint.convert import convert
from mygpt.checkpoint.open import open_checkpoint
from mygpt.hub.resolve import resolve
from mygpt.quantize.formats.bnb import MODES

PLAIN = "bf16"
TEXT = Path(__file__).parent / "text" / "lighthouse.txt"
LOAD = """
import json, sys, torch
def peak(): # not ru_maxrss, which a process has of its parent
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
idle = peak()
from mygpt import LLM
folder, quantize, accelerator = sys.argv[1:]
llm = LLM.load(folder, quantize=quantize or None, accelerator=accelerator, precision="bf16-true")
summary = llm.loaded.quantized
print(json.dumps({"load_s": llm.loaded.load_s, "peak_above_idle_bytes": peak() - idle,
    "linears_bytes": summary.nbytes if summary else None}))
"""


def load_alone(folder: Path, mode: str, accelerator: str) -> dict[str, Any]:
    """Load in a fresh process, whose peak memory is its own."""
    command = [sys.executable, "-c", LOAD, str(folder), mode, accelerator]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def load_stored(folder: Path, mode: str, accelerator: str) -> dict[str, Any]:
    """Convert, then load what was written."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model"
        start = time.perf_counter()
        convert(open_checkpoint(folder), target, scheme=MODES[mode])
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
        return load_alone(target, "", accelerator) | {"convert_s": seconds, "file_bytes": size}


@torch.inference_mode()
def perplexity(llm: LLM) -> float:
    """Of each token of the text after those before it."""
    ids = torch.tensor([llm.tokenizer.encode(TEXT.read_text())])[:, : llm.config.context_length]
    return math.exp(F.cross_entropy(llm.logits(ids)[0, :-1], ids[0, 1:]))


def llama_cpp(file: str, prompt: list[int], new_tokens: int) -> Callable[[], dict[str, Any]]:
    """A program that decodes with llama.cpp, by as many threads."""
    from llama_cpp import Llama

    slots = len(prompt) + new_tokens
    model = Llama(file, n_ctx=slots, n_threads=torch.get_num_threads(), verbose=False)

    def program() -> dict[str, Any]:
        model.reset()
        times = []
        for _ in zip(range(new_tokens), model.generate(prompt, temp=0.0), strict=False):
            times.append(time.perf_counter())
        return {"tokens_per_s": (len(times) - 1) / (times[-1] - times[0])}

    return program


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load alone, run in turns, sum up."""
    folder = resolve(args.checkpoint)
    modes = args.modes.split(",")
    results: dict[str, Any] = {PLAIN: load_alone(folder, "", args.accelerator)}
    for mode in modes:
        results[mode] = load_alone(folder, mode, args.accelerator)
        results[mode]["stored"] = load_stored(folder, mode, args.accelerator)
    programs: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in (PLAIN, *modes):
        options = {"precision": "bf16-true"} if name == PLAIN else {"quantize": name}
        llm = LLM.load(str(folder), accelerator=args.accelerator, **options)
        if args.perplexity == "true":
            results[name]["perplexity"] = perplexity(llm)
        # without its end tokens and its tokenizer: ids are what is measured
        llm = LLM(replace(llm.loaded, stop_ids=frozenset(), prompt_encoder=None))
        prompts = random_prompts(llm.config.vocab_size, 1, args.context)
        programs[name] = partial(run, llm, prompts, args.new_tokens)
    if args.llama_cpp:
        programs["llama.cpp"] = llama_cpp(args.llama_cpp, prompts[0], args.new_tokens)
        results["llama.cpp"] = {}
    for program in programs.values():
        program()  # touches every weight for the first time
    runs = interleave(programs, args.repeats)
    for name, speeds in runs.items():
        pairs = zip(speeds, runs[PLAIN], strict=True)
        results[name]["decode_tokens_per_s"] = median(r["tokens_per_s"] for r in speeds)
        results[name]["decode_tokens_per_s_runs"] = [r["tokens_per_s"] for r in speeds]
        results[name]["ratio_to_bf16"] = median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs)
        if "ttft_s" in speeds[0]:
            results[name]["prefill_tokens_per_s"] = args.context / median(r["ttft_s"] for r in speeds)
    return results


def print_table(results: dict[str, Any]) -> None:
    columns: dict[str, Callable[[dict[str, Any]], Any]] = {
        "linears, GB": lambda r: (r.get("linears_bytes") or 0) / 1e9 or None,
        "peak, GB": lambda r: r["peak_above_idle_bytes"] / 1e9,
        "load, s": lambda r: r["load_s"],
        "stored: file, GB": lambda r: r["stored"]["file_bytes"] / 1e9,
        "stored: load, s": lambda r: r["stored"]["load_s"],
        "decode, tokens/s": lambda r: r["decode_tokens_per_s"],
        "to bf16": lambda r: r["ratio_to_bf16"],
        "prefill, tokens/s": lambda r: r["prefill_tokens_per_s"],
        "perplexity": lambda r: r["perplexity"],
    }
    table = Table("mode", *columns)
    for name, result in results.items():
        cells = []
        for column in columns.values():
            try:
                cells.append(f"{column(result):.3g}")
            except (KeyError, TypeError):
                cells.append("")
        table.add_row(name, *cells)
    Console(width=140).print(table)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure --quantize; see the top of this file.")
    parser.add_argument("checkpoint", help="a folder, .gguf file or Hub repository")
    parser.add_argument("--modes", default=",".join(MODES), help="with commas between them")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--context", type=int, default=36, help="tokens of the prompt")
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens to generate after it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--perplexity", choices=["true", "false"], default="false")
    parser.add_argument("--llama_cpp", help="a GGUF file to decode with llama.cpp in the same turns")
    return parser.parse_args()


def main() -> None:
    args = options()
    results = measure(args)
    print_table(results)
    print_report("quantize", vars(args) | {"modes": results, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()

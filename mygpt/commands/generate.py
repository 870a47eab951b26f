"""`mygpt generate`: generate text from a prompt or a file of prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mygpt.commands._output import print_json, print_statistics, print_text
from mygpt.commands._parser import Parser, make_parser, parse, take, with_strategy
from mygpt.errors import InputError
from mygpt.hub.prefetch import prefetch
from mygpt.options import COMMAND_STRATEGIES, GenerateOptions, LoadOptions, Sampling, check_one_drafter
from mygpt.parallel.rank_env import may_be_worker

if TYPE_CHECKING:
    from mygpt.llm import LLM, Prompt


DESCRIPTIONS = {
    "generate": "Generate text from a prompt, or from a file of prompts.",
    "generate_sequentially": "Generate text with the layers on several devices, which work in turn.",
    "generate_tp": "Generate text with a slice of every matrix on each device (tensor parallelism).",
}
EXAMPLES = {
    "generate": (
        'mygpt generate --prompt "What is the capital of France?"',
        'mygpt generate qwen3-0.6b "Write a haiku about rain." --temperature 0',
        "mygpt generate ./my-model --prompts questions.jsonl --json > answers.jsonl",
        "git diff | mygpt generate qwen3-4b -p - --sys_prompt 'Explain this change.'",
    ),
    "generate_sequentially": (
        'mygpt generate_sequentially llama-3.3-70b -p "Hello" --quantize bnb.nf4',
        'mygpt generate_sequentially qwen3-4b -p "Hello" --devices cuda:0,cpu',
    ),
    "generate_tp": (
        'mygpt generate_tp llama-3.3-70b --prompt "Hello" --devices 4',
        'torchrun --nnodes 2 --nproc-per-node 8 -m mygpt generate_tp REPO -p "Hello" \\\n'
        "      --devices 8 --num_nodes 2",
    ),
}


def build_parser(command: str = "generate") -> Parser:
    """The options of a generating command."""
    parser = make_parser(command, DESCRIPTIONS[command], EXAMPLES[command])
    parser.add_argument(
        "-p",
        "--prompt",
        type=str,
        help="The prompt; - reads it from standard input. It may also stand alone, after CHECKPOINT.",
    )
    for group in (GenerateOptions, Sampling, LoadOptions):
        parser.add_class_arguments(group)
    if COMMAND_STRATEGIES[command] != "auto":
        parser.set_defaults({"devices": "auto"})
    return parser


def run(arguments: Sequence[str], command: str = "generate") -> None:
    """Parse the options, load the model, print its answers."""
    strategy = COMMAND_STRATEGIES[command]
    parsed = parse(build_parser(command), arguments)
    options, sampling = take(GenerateOptions, parsed), take(Sampling, parsed)
    loading = with_strategy(take(LoadOptions, parsed), command, strategy)
    check_one_drafter(loading.draft, options.speculate)
    # Before the model, which takes longer. A worker never leaves `load`, and must not read standard input.
    prompts = None if may_be_worker() else read_prompts(parsed.prompt, options.prompts)

    prefetch(parsed.get("checkpoint"), loading.revision)
    from mygpt.llm import LLM  # torch comes in here

    llm = LLM.load(parsed.get("checkpoint"), **vars(loading))
    if prompts is None:  # SLURM started this process, but it has a model of its own
        prompts = read_prompts(parsed.prompt, options.prompts)
    generate(llm, prompts, options, sampling)


def read_prompts(prompt: str | None, file: Path | None) -> list[Prompt]:
    """The prompts of `--prompt` or `--prompts`.

    Raises:
        InputError: both or neither are given, or a row of the file is malformed.
    """
    if (prompt is None) == (file is None):
        raise InputError("give one of --prompt TEXT ('-' reads standard input) and --prompts FILE.jsonl")
    if prompt == "-":
        try:
            return [sys.stdin.read().removesuffix("\n")]  # the shell's newline, not the user's
        except UnicodeDecodeError as error:
            raise InputError(
                f"--prompt -: standard input is not text ({error}); write it in UTF-8"
            ) from error
    if file is None:
        return [prompt or ""]
    try:
        # Not splitlines(): it also splits at U+2028, which JSON texts may hold. "-sig": for Windows' editors.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--prompts {file}: cannot be read ({reason})") from error
    rows = [_read_row(line, f"{file}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"--prompts {file}: the file holds no prompts")
    return rows


def _read_row(line: str, where: str) -> Prompt:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if isinstance(row, dict) and isinstance(row.get("prompt"), str) and "messages" not in row:
        return cast(str, row["prompt"])
    if isinstance(row, dict) and isinstance(row.get("messages"), list) and "prompt" not in row:
        return cast("list[dict[str, Any]]", row["messages"])
    raise InputError(f'{where}: must be {{"prompt": "..."}} or {{"messages": [...]}}')


def generate(llm: LLM, prompts: Sequence[Prompt], options: GenerateOptions, sampling: Sampling) -> None:
    """Run the prompts in batches and print the samples as they come."""
    from mygpt.engine.engine import pick_seed  # torch came with the model

    encoded = [llm.encode(p, sys_prompt=options.sys_prompt, raw_prompt=options.raw_prompt) for p in prompts]
    first_seed = pick_seed(options.seed)
    drafter = llm.engine.drafter(options.speculate)
    batches = []  # made before the first answer, so that a prompt that does not fit costs no work
    for start in range(0, len(prompts), options.batch_size):
        end = min(start + options.batch_size, len(prompts))
        rows = [row for row in range(start, end) for _ in range(options.num_samples)]
        seeds = [first_seed + i % options.num_samples for i in range(len(rows))]
        batch = llm.engine.batch(
            [encoded[row] for row in rows],
            sampling,
            options.max_new_tokens,
            seeds=seeds,
            stop=options.stop,
            drafter=drafter,
        )
        batches.append((batch, [prompts[row] for row in rows]))
    printer = print_json if options.json else print_text
    shown = 0
    for batch, batch_prompts in batches:
        printer(llm, batch, batch_prompts)
        print_statistics(llm, batch, options.max_new_tokens, shown)
        shown += len(batch_prompts)

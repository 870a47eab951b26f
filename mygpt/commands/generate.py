"""`mygpt generate`: generate text from a prompt or a file of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mygpt.commands._output import print_json, print_statistics, print_text
from mygpt.commands._parser import Parser, make_parser, parse, take, with_strategy
from mygpt.commands._prompts import Request, read_requests
from mygpt.commands._torch import import_torch
from mygpt.errors import InputError
from mygpt.hub.prefetch import prefetch
from mygpt.options import (
    COMMAND_STRATEGIES,
    GenerateOptions,
    LoadOptions,
    Sampling,
    SamplingOptions,
    check_one_drafter,
)
from mygpt.parallel.rank_env import may_be_worker

if TYPE_CHECKING:
    from mygpt.llm import LLM


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
    for group in (GenerateOptions, SamplingOptions, LoadOptions):
        parser.add_class_arguments(group)
    if COMMAND_STRATEGIES[command] != "auto":
        parser.set_defaults({"devices": "auto"})
    return parser


def run(arguments: Sequence[str], command: str = "generate") -> None:
    """Parse the options, load the model, print its answers."""
    strategy = COMMAND_STRATEGIES[command]
    parsed = parse(build_parser(command), arguments)
    options, sampling = take(GenerateOptions, parsed), take(SamplingOptions, parsed)
    loading = with_strategy(take(LoadOptions, parsed), command, strategy)
    check_one_drafter(loading.draft, options.speculate)
    # Before the model, which takes longer. A worker never leaves `load`, and must not read standard input.
    requests = None if may_be_worker() else read_requests(parsed.prompt, options.prompts)

    prefetch(parsed.get("checkpoint"), loading.revision)
    import_torch()
    from mygpt.llm import LLM

    llm = LLM.load(parsed.get("checkpoint"), **vars(loading))
    if requests is None:  # SLURM started this process, but it has a model of its own
        requests = read_requests(parsed.prompt, options.prompts)
    generate(llm, requests, options, sampling)


def generate(
    llm: LLM, requests: Sequence[Request], options: GenerateOptions, sampling: SamplingOptions
) -> None:
    """Run the prompts in batches and print the samples as they come."""
    from mygpt.engine.engine import pick_seed  # torch came with the model

    first_seed, drafter = pick_seed(options.seed), llm.engine.drafter(options.speculate)
    asked = [_checked(llm, request, options, sampling, first_seed) for request in requests]
    batches = []  # made before the first answer, so that a prompt that does not fit costs no work
    for start in range(0, len(asked), options.batch_size):
        samples = [
            (one, number)
            for one in asked[start : start + options.batch_size]
            for number in range(options.num_samples)
        ]
        batch = llm.engine.batch(
            [one.ids for one, _ in samples],
            [one.sampling for one, _ in samples],
            [one.max_new_tokens for one, _ in samples],
            seeds=[one.seed + number for one, number in samples],
            stop=[one.stop for one, _ in samples],
            drafter=drafter,
        )
        batches.append((batch, [one for one, _ in samples]))
    shown = 0
    for batch, ones in batches:
        if options.json:
            print_json(llm, batch, [one.request for one in ones])
        else:
            print_text(batch, separated=len(requests) > 1, first=shown)
        print_statistics(llm, batch, [one.max_new_tokens for one in ones], shown)
        shown += len(ones)


@dataclass(frozen=True)
class _Asked:
    """A request with everything that the engine takes, its row's options before the command line's."""

    request: Request
    ids: list[int]
    sampling: Sampling
    max_new_tokens: int
    seed: int
    stop: list[str]


def _checked(
    llm: LLM, request: Request, options: GenerateOptions, sampling: SamplingOptions, seed: int
) -> _Asked:
    """The same as `_asked`, for a prompt that the model can take; an error names the row."""
    try:
        asked = _asked(llm, request, options, sampling, seed)
        llm.engine.check_prompt(asked.ids)
    except InputError as error:
        raise InputError(f"{request.where}: {error}" if request.where else str(error)) from error
    return asked


def _asked(
    llm: LLM, request: Request, options: GenerateOptions, sampling: SamplingOptions, seed: int
) -> _Asked:
    own = {**vars(options), **vars(sampling), "seed": seed, **request.options}
    generation, chat = llm.loaded.generation, llm.prompt_encoder.is_chat and not options.raw_prompt
    ids = llm.encode(
        request.prompt,
        sys_prompt=own["sys_prompt"],
        raw_prompt=options.raw_prompt,
        think=own["think"],
        chat_template_kwargs=own["chat_template_kwargs"],
    )
    return _Asked(
        request,
        ids,
        SamplingOptions(**{name: own[name] for name in vars(sampling)}).over(generation.sampling),
        generation.answer_tokens(own["max_new_tokens"], chat=chat),
        own["seed"],
        own["stop"],
    )

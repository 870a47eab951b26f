"""`mygpt generate`: generate text from a prompt or a file of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mygpt.commands._output import print_json, print_statistics, print_text
from mygpt.commands._parser import make_parser, parse, take, with_strategy
from mygpt.commands._prompts import Request, read_requests
from mygpt.hub.prefetch import prefetch
from mygpt.options import GenerateOptions, LoadOptions, Sampling, SamplingOptions, check_one_drafter
from mygpt.parallel.rank_env import may_be_worker

if TYPE_CHECKING:
    from mygpt.llm import LLM


def run(
    arguments: Sequence[str],
    command: str = "generate",
    description: str = "Generate text from a prompt, or from a file of prompts.",
    strategy: str = "auto",
) -> None:
    """Parse the options, load the model, print its answers. `strategy` is for several devices."""
    parser = make_parser(command, description)
    parser.add_argument("--prompt", type=str, help="The prompt; '-' reads it from standard input.")
    for group in (GenerateOptions, SamplingOptions, LoadOptions):
        parser.add_class_arguments(group)
    if strategy != "auto":
        parser.set_defaults({"devices": "auto"})
    parsed = parse(parser, arguments)
    options, sampling = take(GenerateOptions, parsed), take(SamplingOptions, parsed)
    loading = with_strategy(take(LoadOptions, parsed), command, strategy)
    check_one_drafter(loading.draft, options.speculate)
    # Before the model, which takes longer. A worker never leaves `load`, and must not read standard input.
    requests = None if may_be_worker() else read_requests(parsed.prompt, options.prompts)

    prefetch(parsed.get("checkpoint"), loading.revision)
    from mygpt.llm import LLM  # torch comes in here

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
    asked = [_asked(llm, request, options, sampling, first_seed) for request in requests]
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
        own["max_new_tokens"] or generation.answer_tokens(chat=chat),
        own["seed"],
        own["stop"],
    )

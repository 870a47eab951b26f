"""The options of the commands, each described once: the docstrings are what `--help` prints.

It imports nothing heavy, not even for type checkers: jsonargparse follows those imports too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mygpt.errors import InputError, did_you_mean
from mygpt.quantize.schemes import quantizers
from mygpt.text.prompt_styles import STYLE_NAMES

# Other names that users know for a precision.
PRECISION_ALIASES = {
    **dict.fromkeys(("fp32", "float32", "32"), "32-true"),
    **dict.fromkeys(("fp16", "float16", "half", "16"), "16-true"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-true"),
}
# The type of the weights in each precision, as torch names it.
DTYPE_NAMES = {"32-true": "float32", "16-true": "float16", "bf16-true": "bfloat16"}
# The commands that run models, and the strategy of each for several devices.
COMMAND_STRATEGIES = {
    "generate": "auto",
    "chat": "auto",
    "generate_sequentially": "sequential",
    "generate_tp": "tensor",
}
# Options that have one of a few values. `choices` adds those of `--quantize`.
CHOICES = {
    "precision": ("32-true", "16-true", "bf16-true"),
    "dtype": tuple(DTYPE_NAMES.values()),
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "strategy": ("auto", "sequential", "tensor", "fsdp"),
    "speculate": ("ngram",),
    "on_overflow": ("drop", "error"),
    "command": tuple(COMMAND_STRATEGIES),
    "prompt_style": STYLE_NAMES,
    "shell": ("bash", "zsh", "fish"),
}
# Python's types in words, for error messages.
TYPE_WORDS = {
    "str": "a text (in a YAML file, put it in quotes)",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": """a list of texts, as '["###"]'""",
    "dict": """a JSON object, as '{"enable_thinking": false}'""",
    "pathlib.Path": "a file's path",
}


@dataclass(frozen=True)
class LoadOptions:
    """How the model is loaded.

    Args:
        precision: The type of the model's numbers, also written fp32, fp16 or bf16. By default the one that the device
            computes well with: on a CPU 32-true, except where it multiplies bfloat16 in hardware and the model takes
            1 GB or more in 32-true.
        quantize: Store the linear layers in 4 bits (nf4, fp4; -dq packs them tighter) or 8 (int8) with bitsandbytes,
            while they are loaded. By default they stay as they are.
        accelerator: The kind of device. auto takes the GPU if there is one; gpu is cuda or mps.
        devices: How many devices to use, auto for all, or a list such as cuda:0,cuda:1,cpu; on a CPU, the number
            of processes or parts.
        num_nodes: How many machines to use, each with the same number of devices; start with torchrun or SLURM.
        strategy: How several devices share the model: sequential (layers in turn), tensor (each a slice of every
            matrix), fsdp, or auto: tensor if their number divides the model, else sequential. By default the
            command's own.
        cpu_offload: With fsdp, keep the weights in the machine's memory until a layer runs.
        compile: Compile the model with torch.compile. It starts more slowly and runs faster on GPUs; on CPUs with
            mygpt's own kernels it runs more slowly.
        draft: A smaller model with the same vocabulary, on the first device. It guesses tokens, and the model checks
            several at once; in float32 greedy answers stay the same, and so does the distribution of samples.
        prompt_style: How a conversation is written: template (the repository's own), raw (not at all) or a known style.
            By default what the repository's files show.
        access_token: Hugging Face token for gated repositories; by default $HF_TOKEN or the saved login.
        revision: Branch, tag or commit of the repository; by default its main branch.
        context_length: Tokens of prompt and answer together, or of a conversation, at most; by default as many as
            the model was made for. Less bounds the memory of the KV cache.
    """

    precision: str | None = None
    quantize: str | None = None
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str | None = None
    cpu_offload: bool = False
    compile: bool = False
    draft: str | None = None
    prompt_style: str | None = None
    access_token: str | None = field(default=None, repr=False)
    revision: str | None = None
    context_length: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", PRECISION_ALIASES.get(str(self.precision), self.precision))
        for name in ("precision", "quantize", "accelerator", "strategy", "prompt_style"):
            check_choice(name, getattr(self, name))
        count = str(self.devices)
        if count != "auto" and not re.fullmatch(r"[1-9]\d*|[a-z]+(:\d+)?(,[a-z]+(:\d+)?)*", count):
            raise InputError(
                f"--devices must be a number above 0, auto, or a list such as cuda:0,cpu; it is {count!r}"
            )
        _require(self, "num_nodes", self.num_nodes >= 1, "1 or above")
        _require(
            self, "context_length", self.context_length is None or self.context_length >= 2, "2 or above"
        )
        if self.cpu_offload and self.strategy != "fsdp":
            raise InputError("--cpu_offload goes with --strategy fsdp only; add that, or leave it out")
        if self.compile and self.strategy == "fsdp":
            raise InputError(
                "--compile does not work with --strategy fsdp, whose weights come and go; leave one out"
            )


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the fields are those of `SamplingOptions`, with mygpt's own defaults."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _require(self, "temperature", self.temperature >= 0, "0 or above")
        _require(self, "top_k", self.top_k >= 0, "0 (all tokens) or above")
        _require(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        _require(self, "min_p", 0 <= self.min_p <= 1, "between 0 and 1")
        _require(self, "repetition_penalty", self.repetition_penalty > 0, "above 0")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen; what is not given is as the model's authors recommend.

    Args:
        temperature: Higher is more varied; 0 always takes the most likely token (greedy). By default what the model's
            authors recommend, as for all of sampling, else 0.8.
        top_k: Sample from this many most likely tokens only; 0 for all. By default the authors', else 50.
        top_p: Sample from the most likely tokens that together reach this probability (0 to 1). By default the
            authors', else 1: from all.
        min_p: Drop tokens less likely than this share of the most likely one (0 to 1).
        repetition_penalty: Above 1, tokens of the prompt and the answer become less likely to come again.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        self.over(Sampling())

    def over(self, defaults: Sampling) -> Sampling:
        """The sampling that was asked for, and the defaults where nothing was."""
        return replace(defaults, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class GenerateOptions:
    """What to generate from, and how to show it.

    Args:
        prompts: A JSON Lines file of prompts, - for standard input. Each row is {"prompt": ...} or {"messages": [...]};
            it may have an id, which --json gives back, and options of its own, such as temperature or max_new_tokens.
        sys_prompt: The system message.
        raw_prompt: Take the prompt as it is, without the chat template.
        think: Let a model that can reason do so before it answers, or not; by default as its chat template has it.
        chat_template_kwargs: Variables for the chat template, as a JSON object.
        max_new_tokens: Generate at most this many tokens; by default what the model's authors recommend, else 1024
            after a chat template (a chat model ends by itself) and 50 after a raw prompt.
        num_samples: Generate this many answers to each prompt, together as one batch.
        batch_size: Run this many prompts of a file together.
        seed: Makes the answers repeatable (answer i uses seed + i); by default drawn at random.
        stop: A text that ends the answer and is no part of it; repeat the option for several, or give a JSON list.
        json: Print one JSON object per answer instead of the text.
        speculate: Guess tokens: those that followed the same ones earlier in the text. The model checks several at
            once, which is faster for texts that repeat themselves.
    """

    prompts: Path | None = None
    sys_prompt: str | None = None
    raw_prompt: bool = False
    think: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    max_new_tokens: int | None = None
    num_samples: int = 1
    batch_size: int = 8
    seed: int | None = None
    stop: list[str] | str = field(default_factory=list)
    json: bool = False
    speculate: str | None = None

    def __post_init__(self) -> None:
        check_choice("speculate", self.speculate)
        for name in ("max_new_tokens", "num_samples", "batch_size"):
            value = getattr(self, name)
            _require(self, name, value is None or value >= 1, "1 or above")
        _check_stop(self)
        _require(self, "seed", self.seed is None or 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")


@dataclass(frozen=True)
class ChatOptions:
    """How a conversation runs.

    Args:
        sys_prompt: The system message.
        think: Let a model that can reason do so before it answers, or not; by default as its chat template has it.
        chat_template_kwargs: Variables for the chat template, as a JSON object.
        max_new_tokens: Answer with at most this many tokens; by default what the context leaves.
        seed: Makes the answers repeatable (answer i uses seed + i); by default drawn at random.
        stop: A text that ends the answer and is no part of it; repeat the option for several, or give a JSON list.
        on_overflow: When the context is full: drop the oldest turns, or end with an error.
        speculate: Guess tokens: those that followed the same ones earlier in the text. The model checks several at
            once, which is faster for texts that repeat themselves.
        repetition_guard: End an answer that repeats the same words again and again.
    """

    sys_prompt: str | None = None
    think: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | str = field(default_factory=list)
    on_overflow: str = "drop"
    speculate: str | None = None
    repetition_guard: bool = True

    def __post_init__(self) -> None:
        check_choice("speculate", self.speculate)
        _require(
            self, "max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "1 or above"
        )
        _check_stop(self)
        _require(self, "seed", self.seed is None or 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")
        check_choice("on_overflow", self.on_overflow)


@dataclass(frozen=True)
class PlanOptions:
    """What to plan for.

    Args:
        command: The command to plan for.
        prompt_tokens: Tokens of a prompt.
        max_new_tokens: Tokens of an answer; by default 1024, the most that a chat model answers with. A chat
            counts as one that has filled its context.
        batch_size: Prompts that run together.
        num_samples: Answers to each prompt.
        device_memory: The memory of each device, as 24GB (or 24G) or 24GiB; by default what is free on this machine's.
        bandwidth: How fast a device reads its memory; adds the most tokens per second that this allows.
        compare: Print a table of all commands by 1, 2, 4, 5 and 8 devices and by quantization.
        json: Print one JSON object instead of a table.
    """

    command: str = "generate"
    prompt_tokens: int = 64
    max_new_tokens: int | None = None
    batch_size: int = 1
    num_samples: int = 1
    device_memory: str | None = None
    bandwidth: float | None = None
    compare: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        check_choice("command", self.command)
        for name in ("prompt_tokens", "batch_size", "num_samples"):
            _require(self, name, getattr(self, name) >= 1, "1 or above")
        _require(
            self, "max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "1 or above"
        )
        _require(self, "bandwidth", self.bandwidth is None or self.bandwidth > 0, "above 0")

    @property
    def memory_bytes(self) -> float | None:
        """`device_memory` in bytes.

        Raises:
            InputError: it is not a size.
        """
        if self.device_memory is None:
            return None
        size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MGT])(I?)B?", self.device_memory.upper())
        if size is None or not float(size[1]):
            raise InputError(
                f"--device_memory must be a size such as 40GB or 24GiB, it is {self.device_memory!r}"
            )
        unit = 1024.0 if size[3] else 1000.0
        return float(size[1]) * math.pow(unit, {"M": 2, "G": 3, "T": 4}[size[2]])


@dataclass(frozen=True)
class ReplOptions:
    """How a conversation looks.

    Args:
        multiline: A message may have several lines; a line !submit, or Alt-Enter, sends it.
        markdown: Render the answers' Markdown; by default if standard output is a terminal.
        load: Continue a conversation that /save wrote.
    """

    multiline: bool = False
    markdown: bool | None = None
    load: Path | None = None


def choices(option: str) -> tuple[str, ...]:
    """The values of an option that has one of a few; () for any other."""
    return tuple(quantizers()) if option == "quantize" else CHOICES.get(option, ())


def check_choice(option: str, value: str | None) -> None:
    """Check the value of an option that has one of a few; None is not given.

    Raises:
        InputError: it is none of them.
    """
    known = choices(option)
    if value is not None and value not in known:
        hint = did_you_mean(str(value), known)
        raise InputError(f"--{option} must be one of {', '.join(known)}, it is {value!r}{hint}")


def check_one_drafter(draft: object, speculate: str | None) -> None:
    """Check that not both `--draft` and `--speculate` are given.

    Raises:
        InputError: both are.
    """
    if draft is not None and speculate is not None:
        raise InputError(f"--speculate {speculate} and --draft are two ways to do one thing; choose one")


def check_types(options: type, values: Mapping[str, Any]) -> None:
    """Check that values have the types of their fields in a dataclass of options. (The parser checks the command line.)

    Raises:
        InputError: a value has another type.
    """
    hints = get_type_hints(options)
    for name, value in values.items():
        union = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        kinds = tuple(get_origin(kind) or kind for kind in union)
        if float in kinds and isinstance(value, int):
            kinds += (int,)
        good = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not good or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise InputError(f"--{name} must be {TYPE_WORDS[kinds[0].__name__]}, it is {value!r}")


def _check_stop(options: GenerateOptions | ChatOptions) -> None:
    """Make one text a list of one, and check that none is empty."""
    if isinstance(options.stop, str):
        object.__setattr__(options, "stop", [options.stop])
    _require(options, "stop", all(options.stop), "a text or a list of texts that are not empty")


def _require(options: object, name: str, good: bool, expected: str) -> None:
    value = getattr(options, name)
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(f"--{name} must be {expected}, it is {value}")

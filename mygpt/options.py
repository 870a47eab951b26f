"""The options of the commands, each described once: the docstrings are what `--help` prints.

Imports nothing heavy, not even for type checkers: jsonargparse follows those imports too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from mygpt.errors import InputError

QUANTIZATIONS = ("bnb.nf4", "bnb.nf4-dq", "bnb.fp4", "bnb.fp4-dq", "bnb.int8")
PRECISIONS = ("32-true", "16-true", "bf16-true")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class LoadOptions:
    """How the model is loaded.

    Args:
        precision: 32-true, 16-true or bf16-true; by default the best that the device runs well, which on a
            CPU is 32-true for models of less than 1 GB in it.
        quantize: Quantize the linear layers with bitsandbytes while they are loaded, to 4 bits (bnb.nf4,
            bnb.nf4-dq, bnb.fp4, bnb.fp4-dq) or 8 (bnb.int8); precision is bf16-true then, where it is not given.
        accelerator: auto, cpu, cuda or mps; auto takes the GPU where there is one.
        devices: How many devices to use (more than 1 is not available yet).
        num_nodes: How many machines to use (more than 1 is not available yet).
        strategy: fsdp (not available yet).
        cpu_offload: Keep sharded weights in host memory (not available yet).
        compile: Compile the model with torch.compile; the first tokens wait for it.
        prompt_style: stablelm, redpajama, plain, template (the repository's own) or raw; by default what the
            repository's files tell.
        access_token: Hugging Face token for gated repositories; by default $HF_TOKEN or the saved login.
        revision: Branch, tag or commit of the repository.
    """

    precision: str | None = None
    quantize: str | None = None
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str | None = None
    cpu_offload: bool = False
    compile: bool = False
    prompt_style: str | None = None
    access_token: str | None = field(default=None, repr=False)
    revision: str | None = None

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("quantize", self.quantize, QUANTIZATIONS)
        _one_of("accelerator", self.accelerator, ACCELERATORS)
        count = str(self.devices)
        if count != "auto" and not (count.isdecimal() and int(count) > 0):
            raise InputError(f"--devices must be a whole number above 0, or auto, it is {count!r}")
        if count not in ("1", "auto"):
            raise InputError(f"--devices {self.devices} is not available yet; use --devices 1")
        if self.num_nodes != 1:
            raise InputError(f"--num_nodes {self.num_nodes} is not available yet; use --num_nodes 1")
        if self.strategy is not None or self.cpu_offload:
            raise InputError("--strategy and --cpu_offload are not available yet; leave them out")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: Divides the logits; 0 takes the most likely token always (greedy).
        top_k: Sample from this many most likely tokens only; 0 for all.
        top_p: Sample from the most likely tokens that together reach this probability (0 to 1).
        min_p: Drop tokens less likely than this share of the most likely one (0 to 1).
        repetition_penalty: Above 1 makes tokens that stand in the prompt or the answer less likely.
    """

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
        """Whether no chance is involved."""
        return self.temperature == 0


@dataclass(frozen=True)
class GenerateOptions:
    """What to generate from, and how to show it.

    Args:
        prompts: A JSON Lines file of prompts, each row {"prompt": ...} or {"messages": [...]}.
        sys_prompt: The system message.
        raw_prompt: Take the prompt as it is, without the chat template.
        max_new_tokens: Generate at most this many tokens.
        num_samples: Generate this many answers to each prompt, together as one batch.
        batch_size: Prompts of a file that run together.
        seed: Makes the answers repeatable (sample i uses seed + i); by default drawn at random.
        stop: Texts that end an answer, as a JSON list; they are never part of it.
        json: Print one JSON object a sample in place of the text.
    """

    prompts: Path | None = None
    sys_prompt: str | None = None
    raw_prompt: bool = False
    max_new_tokens: int = 50
    num_samples: int = 1
    batch_size: int = 8
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_samples", "batch_size"):
            _require(self, name, getattr(self, name) >= 1, "1 or above")
        _require(self, "stop", all(self.stop), "a list of texts that are not empty")
        _require(self, "seed", self.seed is None or 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")


@dataclass(frozen=True)
class ChatOptions:
    """How a conversation runs.

    Args:
        sys_prompt: The system message.
        max_new_tokens: Answer with at most this many tokens; by default what the context leaves.
        seed: Makes the answers repeatable (answer i uses seed + i); by default drawn at random.
        stop: Texts that end an answer, as a JSON list; they are never part of it.
        on_overflow: What happens when the context is full: drop (the oldest turns) or error.
    """

    sys_prompt: str | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    on_overflow: str = "drop"

    def __post_init__(self) -> None:
        _require(
            self, "max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "1 or above"
        )
        _require(self, "stop", all(self.stop), "a list of texts that are not empty")
        _require(self, "seed", self.seed is None or 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")
        _one_of("on_overflow", self.on_overflow, ("drop", "error"))


@dataclass(frozen=True)
class ReplOptions:
    """How a conversation looks.

    Args:
        multiline: A message may have several lines; a line `!submit`, or Alt-Enter, sends it.
        markdown: Render the answers' Markdown; by default where standard output is a terminal.
        load: Go on with a conversation that `/save` wrote.
    """

    multiline: bool = False
    markdown: bool | None = None
    load: Path | None = None


def _require(options: object, name: str, good: bool, expected: str) -> None:
    value = getattr(options, name)
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(f"--{name} must be {expected}, it is {value}")


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise InputError(f"--{name} must be one of {', '.join(known)}, it is {value!r}")

"""What to answer, how, and how the answers look."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mygpt.errors import InputError
from mygpt.options.checks import MOST_SAMPLES, check_choice, require


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
        for name in ("max_new_tokens", "batch_size"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, "1 or above")
        require(self, "num_samples", 1 <= self.num_samples <= MOST_SAMPLES, f"between 1 and {MOST_SAMPLES}")
        _check_stop(self)
        require(self, "seed", self.seed is None or 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")


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
        require(self, "max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "1 or above")
        _check_stop(self)
        require(self, "seed", self.seed is None or 0 <= self.seed < 2**63, "between 0 and 2^63 - 1")
        check_choice("on_overflow", self.on_overflow)


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


def check_one_drafter(draft: object, speculate: str | None) -> None:
    """Check that not both `--draft` and `--speculate` are given.

    Raises:
        InputError: both are.
    """
    if draft is not None and speculate is not None:
        raise InputError(f"--speculate {speculate} and --draft are two ways to do one thing; choose one")


def _check_stop(options: GenerateOptions | ChatOptions) -> None:
    """Make one text a list of one, and check that none is empty."""
    if isinstance(options.stop, str):
        object.__setattr__(options, "stop", [options.stop])
    require(options, "stop", all(options.stop), "a text or a list of texts that are not empty")

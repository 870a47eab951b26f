"""A sequence being generated: its prompt, what was asked for it, its tokens so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from mygpt.options import Sampling

# Tokens that a draft may have, and that the first one has.
MAX_DRAFT, FIRST_DRAFT = 8, 4


@dataclass(eq=False)
class Sequence:
    """One sequence. Whoever reads its tokens may set `finish_reason` to end it early.

    Attributes:
        prompt_ids: token ids to go on from.
        max_new_tokens: the most new tokens.
        seed: of its random numbers, of which each sampled token takes one.
        sampling: how its tokens are chosen.
        stop_ids: the end tokens.
        new_ids: the new tokens, the end token included where one was sampled.
        finish_reason: "stop" (an end token, or a reader's stop string), "length", "repetition" (a reader saw one), or
            None while it runs.
        draft_tokens: how many tokens were drafted for it.
        accepted_draft_tokens: how many of them the model agreed to.
        next_draft: how long its next draft may be.
    """

    prompt_ids: list[int]
    max_new_tokens: int
    seed: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    new_ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "repetition"] | None = None
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    next_draft: int = FIRST_DRAFT

    def __post_init__(self) -> None:
        self.rng = torch.Generator().manual_seed(self.seed)

    @property
    def ids(self) -> list[int]:
        """All token ids, prompt and new ones."""
        return self.prompt_ids + self.new_ids

    @property
    def is_finished(self) -> bool:
        """Whether it gets no more tokens."""
        return self.finish_reason is not None

    def append(self, token: int) -> None:
        """Take one more token, and see whether it is the last."""
        self.new_ids.append(token)
        if token in self.stop_ids:
            self.finish_reason = "stop"
        elif len(self.new_ids) == self.max_new_tokens:
            self.finish_reason = "length"

    def count_draft(self, drafted: int, accepted: int) -> None:
        """Count a draft. The next may be twice as long if all of it was right, else a little longer than what was."""
        self.draft_tokens += drafted
        self.accepted_draft_tokens += accepted
        if drafted:
            self.next_draft = min(MAX_DRAFT, 2 * drafted) if accepted == drafted else accepted + 1

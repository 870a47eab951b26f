"""Facts of one answer in a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from mygpt.engine.detokenizer import Timing


@dataclass(frozen=True)
class Turn:
    """Facts of one answer.

    Attributes:
        prompt_tokens: number of tokens of the rendered history.
        reused_tokens: how many of them were in the cache.
        new_ids: ids of the answer.
        timing: time to the first token, and speed.
        speculation: how many draft tokens were accepted, in words; empty without drafts.
        finish_reason: "stop", "length", "repetition" (the guard ended it), or None for an interrupted answer.
        context_left: tokens that still fit the context after this turn.
        seed: seed of the answer.
    """

    prompt_tokens: int
    reused_tokens: int
    new_ids: list[int]
    timing: Timing
    speculation: str
    finish_reason: str | None
    context_left: int
    seed: int

    @property
    def new_tokens(self) -> int:
        """Number of tokens of the answer."""
        return len(self.new_ids)

    @property
    def statistics(self) -> str:
        """These facts in one line."""
        return (
            f"{self.prompt_tokens} prompt tokens, {self.reused_tokens} of them reused, first token after "
            f"{self.timing.ttft_s:.2f} s | {self.new_tokens} new tokens, {self.timing.tokens_per_s:.1f} tokens/s | "
            + (f"{self.speculation} | " if self.speculation else "")
            + f"{self.context_left} tokens left | seed {self.seed}"
        )

"""Turns the token ids of the decode loop into pieces of text that can be shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from mygpt.engine.sequence import Sequence
from mygpt.text.stop_strings import StopMatcher
from mygpt.text.tokenizer import StreamDecoder, Tokenizer


class Completion:
    """One sequence and its text, which holds neither the end token nor a stop string.

    Without a tokenizer there are ids alone.
    """

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer | None, stops: SequenceOf[str]) -> None:
        self.sequence = sequence
        self.text = ""
        self.done = False  # the last token is in the text; the sequence knows earlier that it is the last
        self._decoder = StreamDecoder(tokenizer) if tokenizer else None
        self._matcher = StopMatcher(stops)

    def take(self) -> str:
        """The text that the newest token completes; ends the sequence at a stop string."""
        sequence = self.sequence
        self.done = sequence.finish_reason is not None
        if self._decoder is None:
            return ""
        token = sequence.new_ids[-1]
        piece = "" if token in sequence.stop_ids else self._matcher.push(self._decoder.push(token))
        if sequence.finish_reason and not self._matcher.matched:
            piece += self._matcher.push(self._decoder.flush())
            piece += self._matcher.flush()
        if self._matcher.matched:
            sequence.finish_reason = "stop"
            self.done = True
        self.text += piece
        return piece


@dataclass
class Timing:
    """How long a batch took, from the start of its prefill."""

    ttft_s: float = 0.0  # to the first token
    total_s: float = 0.0
    first_tokens: int = 0  # one a sequence
    new_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the whole batch each second, after the first; of all where there is no second."""
        rest, seconds = self.new_tokens - self.first_tokens, self.total_s - self.ttft_s
        if rest <= 0 or seconds <= 0:
            rest, seconds = self.new_tokens, self.total_s
        return rest / seconds if seconds > 0 else 0.0


def complete(
    steps: Iterator[list[Sequence]], completions: SequenceOf[Completion], timing: Timing
) -> Iterator[tuple[int, str]]:
    """Drive the decode loop; yields (row, piece of text), and keeps the batch's timing."""
    rows = {completion.sequence: row for row, completion in enumerate(completions)}
    start = time.perf_counter()
    for active in steps:
        timing.total_s = time.perf_counter() - start
        if not timing.new_tokens:
            timing.ttft_s, timing.first_tokens = timing.total_s, len(active)
        timing.new_tokens += len(active)
        for sequence in active:
            row = rows[sequence]
            if piece := completions[row].take():
                yield row, piece


def draft_statistics(sequences: SequenceOf[Sequence]) -> str:
    """How many of the drafted tokens were right, for a line of statistics; empty where there was no draft."""
    drafted = sum(s.draft_tokens for s in sequences)
    accepted = sum(s.accepted_draft_tokens for s in sequences)
    return f"{accepted} of {drafted} draft tokens accepted ({accepted / drafted:.0%})" if drafted else ""

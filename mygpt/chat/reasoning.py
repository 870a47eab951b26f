"""Separate a model's reasoning from its answer, in a text that comes in pieces."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ReasoningParser:
    """Splits a text into reasoning and answer. The tags around the reasoning are dropped.

    Reasoning stands at the beginning of the text only: a `<think>` further on is a part of the answer.
    """

    def __init__(self, starts_in_reasoning: bool = False) -> None:
        """`starts_in_reasoning`: the prompt holds the opening tag already."""
        self._tag = CLOSE if starts_in_reasoning else OPEN  # the next tag to look for; "" for none
        self._held = ""

    def push(self, piece: str) -> list[tuple[bool, str]]:
        """Take the next piece of the text.

        Returns:
            Pairs of (is it reasoning, text). What may be the beginning of a tag is held back.
        """
        self._held += piece
        parts = []
        if self._tag == OPEN:
            start = self._held.lstrip()
            if OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN):
                return []  # may become the tag
            self._tag = CLOSE if start.startswith(OPEN) else ""
            self._held = start.removeprefix(OPEN) if self._tag else self._held
        if self._tag == CLOSE:
            reasoning, tag, rest = self._held.partition(CLOSE)
            if not tag:
                return self._cut(len(self._held) - _overlap(self._held, CLOSE), reasoning=True)
            parts.append((True, reasoning))
            self._tag, self._held = "", rest
        return [part for part in [*parts, *self._cut(len(self._held), reasoning=False)] if part[1]]

    def flush(self) -> list[tuple[bool, str]]:
        """The text is over: return what was held back."""
        return self._cut(len(self._held), reasoning=self._tag == CLOSE)

    def _cut(self, end: int, *, reasoning: bool) -> list[tuple[bool, str]]:
        text, self._held = self._held[:end], self._held[end:]
        return [(reasoning, text)] if text else []


def _overlap(text: str, tag: str) -> int:
    """The number of characters at the text's end that may be the beginning of the tag."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)

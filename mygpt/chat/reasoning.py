"""Tell what a model thinks from what it says, in a text that comes in pieces."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ThoughtSplitter:
    """`push` returns (is it a thought, text) as far as that is certain, without the tags around the thought.

    Only what an answer begins with is a thought: further on, `<think>` is something that it writes about.
    """

    def __init__(self, begins_in_thought: bool = False) -> None:
        """`begins_in_thought`: the tag that opens the thought stands in the prompt already."""
        self._tag = CLOSE if begins_in_thought else OPEN  # the next that means something; "" for none
        self._held = ""

    def push(self, piece: str) -> list[tuple[bool, str]]:
        """Take the next piece of the answer."""
        self._held += piece
        parts = []
        if self._tag == OPEN:
            start = self._held.lstrip()
            if OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN):
                return []  # may become the tag
            self._tag = CLOSE if start.startswith(OPEN) else ""
            self._held = start.removeprefix(OPEN) if self._tag else self._held
        if self._tag == CLOSE:
            thought, tag, rest = self._held.partition(CLOSE)
            if not tag:
                return self._cut(len(self._held) - _overlap(self._held, CLOSE), thought=True)
            parts.append((True, thought))
            self._tag, self._held = "", rest
        return [part for part in [*parts, *self._cut(len(self._held), thought=False)] if part[1]]

    def flush(self) -> list[tuple[bool, str]]:
        """The answer is over: return what was held back."""
        return self._cut(len(self._held), thought=self._tag == CLOSE)

    def _cut(self, end: int, *, thought: bool) -> list[tuple[bool, str]]:
        text, self._held = self._held[:end], self._held[end:]
        return [(thought, text)] if text else []


def _overlap(text: str, tag: str) -> int:
    """How many of the text's last characters may be the beginning of the tag."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)

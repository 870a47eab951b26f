"""Stop strings: end a text at the first one, and hold back text that may become one."""

from collections.abc import Sequence

from mygpt.errors import InputError


class StopMatcher:
    """Finds the earliest stop string in a text that arrives in pieces.

    The results of `push` and `flush`, joined, are the text up to the stop string, or all of the text if there is none.
    Where the text is cut into pieces makes no difference. The match that starts first ends the text; of matches that
    start together, the shortest. So a stop string inside a longer one (`bc` in `abcd`) waits until the longer one is
    decided. A push costs the same at any length of the text: only what may begin a stop string is kept.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if isinstance(stops, str):
            raise InputError(f"stop strings must be a list, got {stops!r}: write [{stops!r}]")
        if not all(isinstance(stop, str) and stop for stop in stops):
            raise InputError(
                f"stop strings must be non-empty strings, got {list(stops)!r}: remove the others"
            )
        self.stop: str | None = None
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    @property
    def matched(self) -> bool:
        """Whether a stop string has ended the text; ask again after `flush`, which decides what was waiting."""
        return self.stop is not None

    def push(self, text: str) -> str:
        """Take the next piece of the text; returns the text that can be shown now, "" after a stop string."""
        if self.matched:
            return ""
        text = self._held + text
        undecided = self._undecided(text)
        start, stop = self._earliest(text)
        if start <= undecided:
            return self._end(text[:start], stop)
        self._held = text[undecided:]
        return text[:undecided]

    def flush(self) -> str:
        """The text is over: return what was held back, up to a stop string."""
        start, stop = self._earliest(self._held)
        return self._end(self._held[:start], stop)

    def _end(self, shown: str, stop: str | None) -> str:
        self._held = ""
        self.stop = self.stop or stop
        return shown

    def _earliest(self, text: str) -> tuple[int, str | None]:
        """The start of the first whole stop string, and the string; past the end and None if there is none."""
        found = [(text.find(stop), len(stop), stop) for stop in self._stops if stop in text]
        start, _, stop = min(found, default=(len(text) + 1, 0, None))
        return start, stop

    def _undecided(self, text: str) -> int:
        """The start of the longest tail that may still become a stop string; the end if there is none."""
        tails = range(max(0, len(text) - self._longest + 1), len(text))
        return next((i for i in tails if any(s.startswith(text[i:]) for s in self._stops)), len(text))

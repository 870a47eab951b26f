"""Counts the verdicts, and tells them."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.verdict import BAD, FAILED, OK, REFUSED, Verdict

WORDS = (OK, REFUSED, FAILED, BAD)


@dataclass
class Tally:
    """The verdicts of a run, by kind and by message."""

    seed: int
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    groups: dict[str, dict[str, list[tuple[int, str]]]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, number: int, kind: str, verdict: Verdict) -> None:
        """Count one case."""
        self.counts[kind][verdict.word] += 1
        self.counts["all"][verdict.word] += 1
        if verdict.word in (BAD, FAILED):
            # A time-out or a signal says nothing of where it was.
            bare = " " not in verdict.message or verdict.message.startswith("died of")
            group = f"{verdict.group} in {kind}" if bare else verdict.group
            self.groups[verdict.word].setdefault(group, []).append((number, kind))

    @property
    def bad(self) -> int:
        """How many cases did not end as they must."""
        return self.counts["all"][BAD]

    def lines(self, seconds: float) -> list[str]:
        """A table by kind, each group of bad cases with its first one, and a line of JSON."""
        kinds = [*sorted(kind for kind in self.counts if kind != "all"), "all"]
        table = [f"{'kind':<18}" + "".join(f"{word:>18}" for word in WORDS)]
        table += [
            f"{kind:<18}" + "".join(f"{self.counts[kind][word]:>18}" for word in WORDS) for kind in kinds
        ]
        return [*table, "", *self._grouped(FAILED), *self._grouped(BAD), json.dumps(self._summary(seconds))]

    def _grouped(self, word: str) -> list[str]:
        """The largest group first, each by its first case, whichever of the servers was faster."""
        lines = []
        for group, cases in sorted(self.groups[word].items(), key=lambda item: (-len(item[1]), min(item[1]))):
            number, kind = min(cases)
            lines += [f"{word}, {len(cases)} as {kind} {self.seed}:{number}", f"  {group}"]
        return lines

    def _summary(self, seconds: float) -> dict[str, Any]:
        total = self.counts["all"].total()
        return {
            "seed": self.seed,
            "mutations": total,
            **{word.replace(" ", "_").replace("-", "_"): self.counts["all"][word] for word in WORDS},
            "minutes": round(seconds / 60, 2),
            "per_second": round(total / max(seconds, 1e-9), 1),
            "bad_groups": len(self.groups[BAD]),
        }

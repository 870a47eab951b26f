"""How the next token is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mygpt.options.checks import require


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the fields are those of `SamplingOptions`, with mygpt's own defaults."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        require(self, "temperature", self.temperature >= 0, "0 or above")
        require(self, "top_k", self.top_k >= 0, "0 (all tokens) or above")
        require(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        require(self, "min_p", 0 <= self.min_p <= 1, "between 0 and 1")
        require(self, "repetition_penalty", self.repetition_penalty > 0, "above 0")

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

"""What a family's file describes: how to read `config.json`, and a mapping of weight names as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mygpt.config import Config
from mygpt.errors import InputError
from mygpt.families.fields import Fields

if TYPE_CHECKING:
    from torch import Tensor

# A fused tensor of the file -> its parts, in the order of `Split.names`.
Splitter = Callable[["Tensor", Config], "tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Split:
    """One tensor of the file that holds several of ours.

    Where `names` say `{e}` and the file's name does not, it holds them of each expert in turn.
    """

    names: tuple[str, ...]
    splitter: Splitter


@dataclass(frozen=True)
class Family:
    """A `model_type` of Hugging Face's `config.json`, and how to read it.

    `names` maps the file's weight names to ours. Both are templates: `{i}` is a layer's number, `{e}`
    an expert's, `{p}` is `weight` or `bias`. `skipped` are templates of tensors that a file may hold and the
    model does not need.
    """

    model_type: str
    summary: str
    examples: tuple[str, ...]
    read_config: Callable[[Fields], Config]
    names: Mapping[str, str | Split]
    skipped: tuple[str, ...] = ()
    _patterns: dict[re.Pattern[str], str | Split | None] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        targets = {**self.names, **dict.fromkeys(self.skipped)}
        self._patterns.update({_pattern(template): target for template, target in targets.items()})

    def translate(self, name: str, tensor: Tensor, config: Config) -> tuple[tuple[str, Tensor], ...] | None:
        """Our names and tensors for one of the file's: none for a skipped one, None for an unknown one."""
        for pattern, target in self._patterns.items():
            match = pattern.fullmatch(name)
            if match is None:
                continue
            if target is None:
                return ()
            if isinstance(target, str):
                return ((target.format(**match.groupdict()), tensor),)
            try:
                parts = target.splitter(tensor, config)
            except RuntimeError as error:  # torch's, of a view that has not as many elements
                raise InputError(
                    f"{name} of shape {tuple(tensor.shape)} does not fit config.json; download the checkpoint again"
                ) from error
            return tuple(zip(self.targets(name, config), parts, strict=True))
        return None

    def targets(self, name: str, config: Config) -> tuple[str, ...]:
        """Our names for one of the file's: none for a skipped or an unknown one."""
        for pattern, target in self._patterns.items():
            if match := pattern.fullmatch(name):
                if isinstance(target, Split):
                    return tuple(
                        part_name.format(**{**match.groupdict(), **expert})
                        for part_name, expert in _each_expert(target, match, config)
                    )
                return () if target is None else (target.format(**match.groupdict()),)
        return ()


def _pattern(template: str) -> re.Pattern[str]:
    literal = re.escape(template)
    for field_name, values in {"i": r"\d+", "e": r"\d+", "p": "weight|bias"}.items():
        literal = literal.replace(rf"\{{{field_name}\}}", f"(?P<{field_name}>{values})")
    return re.compile(literal)


def _each_expert(split: Split, match: re.Match[str], config: Config) -> list[tuple[str, dict[str, str]]]:
    """The names of a split with the expert's number that is to be put into each, if any."""
    experts: list[dict[str, str]] = [{}]
    if config.moe is not None and "{e}" in split.names[0] and "e" not in match.groupdict():
        experts = [{"e": str(e)} for e in range(config.moe.n_experts)]
    return [(name, expert) for expert in experts for name in split.names]


def split_grouped_qkv(tensor: Tensor, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ordered as (key-value head, its query heads then key then value, head_dim) to q, k and v.

    GPT-NeoX (one query head a group) and Falcon (n_heads / n_kv_heads of them) fuse so.
    """
    group = config.n_heads // config.n_kv_heads
    heads = tensor.view(config.n_kv_heads, group + 2, config.head_dim, *tensor.shape[1:])
    q, k, v = heads[:, :group], heads[:, group], heads[:, group + 1]
    return q.flatten(0, 2), k.flatten(0, 1), v.flatten(0, 1)

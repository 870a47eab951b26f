"""`Family`: how to read a `config.json`, and a mapping of weight names as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mygpt.errors import InputError
from mygpt.families._fields import Fields
from mygpt.model.config import Config

if TYPE_CHECKING:
    from torch import Tensor

# A fused tensor of the file -> its parts, in the order of `Split.names`.
Splitter = Callable[["Tensor", Config], "tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Split:
    """One tensor of the file that holds several of ours.

    If `names` have an `{e}` or `{h}` and the file's name does not, the tensor holds all experts or heads in order.
    """

    names: tuple[str, ...]
    splitter: Splitter


@dataclass(frozen=True)
class Family:
    """A `model_type` of Hugging Face's `config.json`, and how to read it.

    `names` maps the file's weight names to ours. Both are templates: `{i}` is a layer's number, `{e}`
    an expert's, `{h}` a head's, `{p}` is `weight` or `bias`. `skipped` are templates of tensors that a file may
    hold and the model does not need; there `{rest}` is anything.
    """

    model_type: str
    summary: str
    examples: tuple[str, ...]
    read_config: Callable[[Fields], Config]
    names: Mapping[str, str | Split]
    skipped: tuple[str, ...] = ()
    skips_layers_past_the_last: bool = False  # the file may hold more of them than the model has
    _patterns: dict[re.Pattern[str], str | Split | None] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        targets = {**self.names, **dict.fromkeys(self.skipped)}
        self._patterns.update({_pattern(template): target for template, target in targets.items()})

    def translate(self, name: str, tensor: Tensor, config: Config) -> tuple[tuple[str, Tensor], ...] | None:
        """Our names and tensors for one of the file's; () if it is skipped, None if it is unknown."""
        for pattern, target in self._patterns.items():
            match = pattern.fullmatch(name)
            if match is None:
                continue
            if target is None or (self.skips_layers_past_the_last and _is_past_the_last(match, config)):
                return ()
            if isinstance(target, str):
                return ((target.format(**match.groupdict()), tensor),)
            try:
                parts = target.splitter(tensor, config)
                return tuple(zip(_part_names(target.names, match, len(parts)), parts, strict=True))
            except (RuntimeError, IndexError, ValueError) as error:  # too few elements, dimensions or parts
                raise InputError(
                    f"{name} of shape {tuple(tensor.shape)} does not fit config.json; download the checkpoint again"
                ) from error
        return None

    def targets(self, name: str, config: Config) -> tuple[str, ...]:
        """Our names for one of the file's matrices; () if it is skipped or unknown."""
        for pattern, target in self._patterns.items():
            if match := pattern.fullmatch(name):
                if not isinstance(target, Split):
                    return () if target is None else (target.format(**match.groupdict()),)
                of_all_experts = "{e}" in target.names[0] and "e" not in match.groupdict()
                rounds = config.moe.n_experts if config.moe and of_all_experts else 1
                return tuple(_part_names(target.names, match, rounds * len(target.names)))
        return ()


# What each field of a template matches.
_NUMBER = "[0-9]{1,9}"
_FIELDS = {"i": _NUMBER, "e": _NUMBER, "h": _NUMBER, "p": "weight|bias", "rest": ".+"}


def _pattern(template: str) -> re.Pattern[str]:
    literal = re.escape(template)
    for field_name, values in _FIELDS.items():
        literal = literal.replace(rf"\{{{field_name}\}}", f"(?P<{field_name}>{values})")
    return re.compile(literal)


def _part_names(names: tuple[str, ...], match: re.Match[str], count: int) -> list[str]:
    """The names of a split's parts. An `{e}` or `{h}` that the file's name lacks counts through the parts."""
    rounds = ({"e": str(n), "h": str(n), **match.groupdict()} for n in range(count // len(names)))
    return [name.format(**values) for values in rounds for name in names]


def _is_past_the_last(match: re.Match[str], config: Config) -> bool:
    layer = match.groupdict().get("i")
    return layer is not None and int(layer) >= config.n_layers


def split_grouped_qkv(tensor: Tensor, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ordered as (key-value head, its query heads then key then value, head_dim) to q, k and v.

    The fused projection of GPT-NeoX (one query head a group) and Falcon (n_heads / n_kv_heads of them).
    """
    group = config.n_heads // config.n_kv_heads
    heads = tensor.view(config.n_kv_heads, group + 2, config.head_dim, *tensor.shape[1:])
    q, k, v = heads[:, :group], heads[:, group], heads[:, group + 1]
    return q.flatten(0, 2), k.flatten(0, 1), v.flatten(0, 1)

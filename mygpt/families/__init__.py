"""The model families, a file each: `config.json` to `Config`, and the file's weight names to ours. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from mygpt.errors import InputError
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.json_files import read_json
from mygpt.model.config import Config
from mygpt.quantize.schemes import stored_scheme


def _families() -> Iterator[Family]:
    """The FAMILY of each module of this package that has one, so a new family is a new file."""
    for name in sorted(module.name for module in iter_modules(__path__)):
        family = getattr(import_module(f"{__name__}.{name}"), "FAMILY", None)
        if isinstance(family, Family):
            yield family


_MOST_EXPERTS = 2**15  # of all layers; DeepSeek-V3 has 14,848

FAMILIES: dict[str, Family] = {family.model_type: family for family in _families()}


def read_config(raw: Mapping[str, Any], source: str = "config.json") -> tuple[Family, Config]:
    """The family and the architecture of a parsed `config.json`; `source` names it in errors.

    Raises:
        InputError: an unsupported model_type, or a setting that mygpt does not implement.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f"{source}: the model_type {model_type!r} is not supported; supported are {', '.join(FAMILIES)}"
        )
    family = FAMILIES[model_type]
    stored_scheme(raw, source)  # refuses what cannot be read
    config = family.read_config(Fields(raw, source))
    if config.moe and len(config.moe.layers) * config.moe.n_experts > _MOST_EXPERTS:
        raise InputError(
            f"{source}: {config.moe.n_experts} experts in {len(config.moe.layers)} layers are more than "
            f"{_MOST_EXPERTS}, the most that are supported"
        )
    return family, config


def check_folder(folder: Path) -> None:
    """Raise InputError if the model of a folder's `config.json` is not supported."""
    read_config(read_json(folder / "config.json"), str(folder))

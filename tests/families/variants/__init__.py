"""Tiny random models of every family, one for each switch of its configuration.

Each file of this folder that has VARIANTS is found by itself.
"""

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import pytest
from _pytest.mark import ParameterSet

from tests.families.variants.base import ORIGINAL, ROPES, WINDOW, Variant

_MODULES = [import_module(f"{__name__}.{name}") for name in sorted(m.name for m in iter_modules(__path__))]
VARIANTS: list[Variant] = [variant for module in _MODULES for variant in getattr(module, "VARIANTS", ())]


# The first variant of each model_type.
FIRST = {v.config.model_type: v for v in reversed(VARIANTS)}
# Readers with ropes of their own, and Llama's for all others: `test_config.py` sees that those read the same.
OWN_ROPES = ("llama", "gemma3_text", "olmo3", "deepseek_v2", "deepseek_v3", "ministral3")


def reads_rope_as_llama(variant: Variant) -> bool:
    """Whether the variant is one of a rope type alone, of a family that reads it as Llama does."""
    return variant.switch in ROPES and variant.config.model_type not in OWN_ROPES


def once(variants: Iterable[Variant], default: Callable[[Variant], object]) -> list[ParameterSet]:
    """The variants as parameters of a test; those that `default` is false of are for the full matrix."""
    return [pytest.param(v, id=v.name, marks=() if default(v) else pytest.mark.full) for v in variants]


@cache
def variant(name: str) -> Variant:
    """The variant of a name."""
    return next(v for v in VARIANTS if v.name == name)


__all__ = [
    "FIRST",
    "ORIGINAL",
    "ROPES",
    "VARIANTS",
    "WINDOW",
    "Variant",
    "once",
    "reads_rope_as_llama",
    "variant",
]

"""Tiny random models of every family, one for each switch of its configuration.

Each file of this folder that has VARIANTS is found by itself.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from tests.families.variants.base import ORIGINAL, ROPES, WINDOW, Variant

_MODULES = [import_module(f"{__name__}.{name}") for name in sorted(m.name for m in iter_modules(__path__))]
VARIANTS: list[Variant] = [variant for module in _MODULES for variant in getattr(module, "VARIANTS", ())]


@cache
def variant(name: str) -> Variant:
    """The variant of a name."""
    return next(v for v in VARIANTS if v.name == name)


__all__ = ["ORIGINAL", "ROPES", "VARIANTS", "WINDOW", "Variant", "variant"]

"""Checks of options, by the command line's names."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mygpt.errors import InputError, did_you_mean
from mygpt.quantize.schemes import quantizers
from mygpt.text.prompt_styles import STYLE_NAMES

# The type of the weights in each precision, as torch names it.
DTYPE_NAMES = {"32-true": "float32", "16-true": "float16", "bf16-true": "bfloat16"}
# The commands that run models, and the strategy of each for several devices.
COMMAND_STRATEGIES = {
    "generate": "auto",
    "chat": "auto",
    "generate_sequentially": "sequential",
    "generate_tp": "tensor",
}
# Options that have one of a few values. `choices` adds those of `--quantize`.
CHOICES = {
    "precision": ("32-true", "16-true", "bf16-true"),
    "dtype": tuple(DTYPE_NAMES.values()),
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "strategy": ("auto", "sequential", "tensor", "fsdp"),
    "speculate": ("ngram",),
    "on_overflow": ("drop", "error"),
    "command": tuple(COMMAND_STRATEGIES),
    "prompt_style": STYLE_NAMES,
    "shell": ("bash", "zsh", "fish"),
}
MOST_SAMPLES = 100_000  # of one prompt
_LEAST, _MOST = 1e-30, 1e30  # of a number that is not whole; NaN is no part of it
# Python's types in words, for error messages.
TYPE_WORDS = {
    "str": "a text (in a YAML file, put it in quotes)",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": """a list of texts, as '["###"]'""",
    "dict": """a JSON object, as '{"enable_thinking": false}'""",
    "pathlib.Path": "a file's path",
}


def choices(option: str) -> tuple[str, ...]:
    """The values of an option that has one of a few; () for any other."""
    return tuple(quantizers()) if option == "quantize" else CHOICES.get(option, ())


def check_choice(option: str, value: str | None) -> None:
    """Check the value of an option that has one of a few; None is not given.

    Raises:
        InputError: it is none of them.
    """
    known = choices(option)
    if value is not None and value not in known:
        hint = did_you_mean(str(value), known)
        raise InputError(f"--{option} must be one of {', '.join(known)}, it is {value!r}{hint}")


def check_types(options: type, values: Mapping[str, Any]) -> None:
    """Check that values have the types of their fields in a dataclass of options. (The parser checks the command line.)

    Raises:
        InputError: a value has another type.
    """
    hints = get_type_hints(options)
    for name, value in values.items():
        union = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        kinds = tuple(get_origin(kind) or kind for kind in union)
        if float in kinds and isinstance(value, int):
            kinds += (int,)
        good = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not good or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise InputError(f"--{name} must be {TYPE_WORDS[kinds[0].__name__]}, it is {value!r}")


def require(options: object, name: str, good: bool, expected: str) -> None:
    """Check an option; `expected` says in words what it must be.

    Raises:
        InputError: it is not good, or a number that float32 or an index cannot hold.
    """
    value = getattr(options, name)
    size = abs(value) if isinstance(value, int | float) else 0
    fits = not size or (_LEAST <= size <= _MOST if isinstance(value, float) else size < 2**63)
    if good and not fits:
        raise InputError(f"--{name} is out of range, it is {value}")
    if not good:
        raise InputError(f"--{name} must be {expected}, it is {value}")

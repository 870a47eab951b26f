"""Structured mutations: of what JSON, YAML and metadata hold."""

import copy
import json
import math
import random
from typing import Any

LONG = 100_000  # characters
DEEP = 20_000  # levels


class Raw(str):
    """Text that is written into the JSON as it is."""


class Twice(str):
    """A key that is to be written twice, the second time with the value `other`."""

    other: Any = None


TEXTS = (
    "",
    " ",
    "null",
    "1",
    "0x10",
    "a",
    "é日本🙂",
    "A" * LONG,
    "\x00",
    "a\x00b",
    "\x1b]0;owned\x07\x1b[2J\x1b[31m",
    "\x9b31m\x7f",
    "\r\n\terror: forged line",
    "\u2028\u202eevil",
    "\ud800",
    "%s%n{}{0}{x!r}",
    "{{ messages }}{% for x in range(10) %}",
    "../../../../outside/canary",
    "/dev/zero",
    ".",
    "~",
    "-1",
    "--help",
    "hf_ABCDEFGHIJKLMNOPQRSTUVWX",
)
NUMBERS = (
    *(0, -1, 1, 2, 3, 7, 255, 65536, 2**31 - 1, 2**31, 2**32, -(2**31) - 1),
    *(2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30),
    *(0.5, -0.0, 1e-320, 1e30, 1e308, -1.5, math.nan, math.inf, -math.inf),
    *(Raw("9" * 5000), Raw("-" + "9" * 5000), Raw("1e999"), Raw("0." + "3" * 5000)),
)
OTHERS = (
    None,
    True,
    False,
    *([], {}, [None], [[]], {"": None}, [0] * 10_000, {"a": {"b": [1]}}, ["a", 1, None]),
    *(Raw("[" * DEEP + "]" * DEEP), Raw('{"a":' * DEEP + "0" + "}" * DEEP)),
)


def nasty(rng: random.Random) -> Any:
    """A value that programs get wrong."""
    return rng.choice(rng.choice((TEXTS, NUMBERS, NUMBERS, OTHERS)))


def dump(value: Any) -> str:
    """As JSON, with all that JSON's readers take and may not: NaN, lone surrogates, keys that come twice."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        pairs = [*value.items(), *((key, key.other) for key in value if isinstance(key, Twice))]
        return "{" + ", ".join(f"{json.dumps(str(key))}: {dump(item)}" for key, item in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(dump, value)) + "]"
    return json.dumps(value)


def mutate(rng: random.Random, root: Any) -> tuple[Any, str]:
    """A copy of a value with one thing changed somewhere in it, and what it is."""
    root = copy.deepcopy(root)
    container, key, path = _place(rng, root)
    if container is None:
        return nasty(rng), "the whole replaced"
    old = container[key]
    change = rng.choices(
        (_replace, _tweak, _remove, _copy_sibling, _rename, _insert, _twice), (10, 5, 2, 2, 1, 1, 1)
    )[0]
    change(rng, container, key)
    new = _at(container, key)
    told = f"{change.__name__[1:]} {'.'.join(map(str, path))}: {_short(old)} -> {_short(new)}"
    return root, told


def mutate_times(rng: random.Random, root: Any) -> tuple[Any, list[str]]:
    """As `mutate`, mostly once, at times up to four times."""
    told = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
        root, text = mutate(rng, root)
        told.append(text)
    return root, told


def _place(rng: random.Random, root: Any) -> tuple[Any, Any, list[Any]]:
    """A container in `root`, one of its keys, and the path to it; no container where there is none, or by chance."""
    container, path = root, []
    if not isinstance(root, dict | list) or not root or rng.random() < 0.02:
        return None, None, path
    while True:
        key = rng.choice(list(container)) if isinstance(container, dict) else rng.randrange(len(container))
        path.append(key)
        inner = container[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            return container, key, path
        container = inner


def _replace(rng: random.Random, container: Any, key: Any) -> None:
    container[key] = nasty(rng)


def _tweak(rng: random.Random, container: Any, key: Any) -> None:
    """A value near the right one, or the right one of a wrong type."""
    value = container[key]
    choices: list[Any] = [[value], {"a": value}, str(value), None]
    if isinstance(value, int | float) and not isinstance(value, bool):
        choices += [value + 1, value - 1, value * 2, -value, value / 2, value * 1000, float(value)] * 2
    elif isinstance(value, str):
        choices += [value[:-1], value * 2, value.upper(), value + "\n", value[::-1], value[:1000] * 1000]
    elif isinstance(value, list):
        choices += [value[:-1], value[1:], value * 2, value[::-1], value[:1], value * 50]
    elif isinstance(value, bool):
        choices += [not value, int(value)]
    container[key] = rng.choice(choices)


def _remove(rng: random.Random, container: Any, key: Any) -> None:
    del container[key]


def _copy_sibling(rng: random.Random, container: Any, key: Any) -> None:
    keys = list(container) if isinstance(container, dict) else range(len(container))
    other = rng.choice(keys)
    container[key], container[other] = container[other], container[key]


def _rename(rng: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[rng.choice(TEXTS)] = container.pop(key)
    else:
        container.insert(rng.randrange(len(container)), container.pop(key))


def _insert(rng: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[rng.choice(TEXTS)] = nasty(rng)
    else:
        container.insert(key, nasty(rng))


def _twice(rng: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        twice = Twice(key)
        twice.other = nasty(rng)
        container[twice] = container.pop(key)
    else:
        container.insert(key, container[key])


def _at(container: Any, key: Any) -> Any:
    try:
        return container[key]
    except (KeyError, IndexError):
        return None


def _short(value: Any) -> str:
    text = ascii(value) if not isinstance(value, list | dict) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"

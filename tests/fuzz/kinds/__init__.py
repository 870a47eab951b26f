"""The kinds of cases: each makes one out of a random generator and the valid files."""

import random
from collections.abc import Callable, Sequence

from tests.fuzz.bases import Bases
from tests.fuzz.case import Case
from tests.fuzz.kinds import gguf, inputs, model, options, text, weights

Maker = Callable[[random.Random, Bases], Case]
# How often each comes, relative to the others.
_WEIGHTED: dict[str, tuple[int, Maker]] = {
    "config": (5, model.config),
    "generation_config": (1, model.generation_config),
    "index": (1, model.index),
    "files": (2, model.files),
    "safetensors": (2, weights.safetensors),
    "bin": (2, weights.pickled),
    "bnb": (2, weights.bnb),
    "quantized": (1, weights.quantized),
    "gguf": (3, gguf.gguf),
    "tokenizer": (4, text.tokenizer),
    "template": (2, text.template),
    "prompts": (2, inputs.prompts),
    "chat": (2, inputs.chat),
    "transcript": (1, inputs.transcript),
    "options": (3, options.options),
    "yaml": (2, options.yaml_file),
    "preset": (1, options.preset),
}
KINDS = tuple(_WEIGHTED)


def make_case(seed: int, number: int, bases: Bases) -> Case:
    """The case of a seed and a number."""
    rng, kind = _begin(seed, number)
    case = _WEIGHTED[kind][1](rng, bases)
    case.kind = kind
    return case


def numbers(seed: int, kinds: Sequence[str], count: int) -> list[int]:
    """The first numbers whose cases are of these kinds."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        if _begin(seed, number)[1] in kinds:
            found.append(number)
        number += 1
    return found


def _begin(seed: int, number: int) -> tuple[random.Random, str]:
    rng = random.Random(f"{seed}:{number}")
    return rng, rng.choices(KINDS, [weight for weight, _ in _WEIGHTED.values()])[0]

"""Cases that break a model's JSON files, or its files as wholes."""

import json
import random

from tests.fuzz import mutate_bytes, mutate_files, values
from tests.fuzz.bases import Bases
from tests.fuzz.case import MODEL, Case
from tests.fuzz.kinds.commands import new_case, use_model

_BYTES = 0.15  # share of the mutations of JSON that are of its bytes


def break_json(rng: random.Random, case: Case, name: str) -> None:
    """Change a JSON file of the case's model: mostly its values, at times its bytes."""
    path = f"{MODEL}/{name}"
    content = case.files[path]
    assert isinstance(content, bytes)
    if rng.random() < _BYTES:
        case.files[path], told = mutate_bytes.mutate(rng, content)
        case.mutations.append(f"{name}: {told}")
    else:
        root, texts = values.mutate_times(rng, json.loads(content))
        case.files[path] = values.dump(root).encode()
        case.mutations += [f"{name}: {text}" for text in texts]


def config(rng: random.Random, bases: Bases) -> Case:
    """A family's config.json."""
    name = rng.choice(bases.under("family/"))
    case = new_case(bases.get(name))
    case.mutations.append(name)
    break_json(rng, case, "config.json")
    use_model(rng, case)
    if case.arguments[0] == "plan" and rng.random() < 0.5:
        case.arguments[1] += "/config.json"
    return case


def generation_config(rng: random.Random, bases: Bases) -> Case:
    """generation_config.json."""
    case = new_case(bases.get("llama"))
    break_json(rng, case, "generation_config.json")
    return use_model(rng, case)


def index(rng: random.Random, bases: Bases) -> Case:
    """The index of several weight files, or the files that it names."""
    case = new_case(bases.get(rng.choice(bases.under("sharded/"))))
    path = next(name for name in case.files if name.endswith(".index.json"))
    if rng.random() < 0.7:
        break_json(rng, case, path.rpartition("/")[2])
    else:
        mutate_files.mutate(rng, case, [name for name in case.files if "-of-0000" in name])
    return use_model(rng, case)


def files(rng: random.Random, bases: Bases) -> Case:
    """One or two of a model's files are missing, empty, or something else; `mygpt list` sees them too."""
    case = new_case(bases.get(rng.choice(bases.names)))
    for _ in range(rng.choice((1, 1, 2))):
        mutate_files.mutate(rng, case, sorted(case.files))
    path = next((name for name in case.files if name.endswith(".gguf")), MODEL)
    return use_model(rng, case, path)

"""Cases that break weight files: safetensors of all kinds, and pickles."""

import io
import pickle
import random
import zipfile
from typing import Any

from tests.fuzz import mutate_bytes, mutate_tensors
from tests.fuzz.bases import Bases
from tests.fuzz.case import Case
from tests.fuzz.kinds.commands import new_case, use_model
from tests.fuzz.kinds.model import break_json


def safetensors(rng: random.Random, bases: Bases) -> Case:
    """A safetensors file: its header, its tensors, its bytes."""
    names = ["llama", "sharded/safetensors", *bases.under("family/")]
    case = new_case(bases.get(rng.choices(names, [10, 10] + [1] * (len(names) - 2))[0]))
    _break_tensors(rng, case)
    return use_model(rng, case)


def bnb(rng: random.Random, bases: Bases) -> Case:
    """Stored bitsandbytes weights: mostly what belongs to a matrix, else the config's word on it."""
    case = new_case(bases.get(rng.choice(bases.under("bnb/"))))
    if rng.random() < 0.2:
        break_json(rng, case, "config.json")
    else:
        _break_tensors(rng, case, ("absmax", "quant_map", "quant_state", "SCB", "nested", "weight_format"))
    return use_model(rng, case)


def quantized(rng: random.Random, bases: Bases) -> Case:
    """FP8 and MXFP4 repositories."""
    case = new_case(bases.get(rng.choice(bases.under("quantized/"))))
    if rng.random() < 0.2:
        break_json(rng, case, "config.json")
    else:
        _break_tensors(rng, case, ("_scale_inv", "_blocks", "_scales", "_proj.weight"))
    return use_model(rng, case)


def _break_tensors(rng: random.Random, case: Case, wanted: tuple[str, ...] = ()) -> None:
    path = rng.choice([name for name in case.files if name.endswith(".safetensors")])
    content = case.files[path]
    assert isinstance(content, bytes)
    for _ in range(rng.choice((1, 1, 1, 2))):
        try:
            content, told = mutate_tensors.mutate(rng, content, wanted)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no safetensors any more
            content, told = mutate_bytes.mutate(rng, content)
        case.mutations.append(f"{path}: {told}")
    case.files[path] = content


class _Calls:
    """Pickled as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


def pickled(rng: random.Random, bases: Bases) -> Case:
    """A `.bin` file: its bytes, the parts of its archive, odd or hostile objects in it."""
    base = rng.choice(["bin/zip", "bin/zip", "bin/legacy", "sharded/bin"])
    case = new_case(bases.get(base))
    path = rng.choice([name for name in case.files if name.endswith(".bin")])
    content = case.files[path]
    assert isinstance(content, bytes)
    how = rng.choice((_break_bytes, _break_archive, _break_archive, _odd_object, _hostile))
    case.files[path], told = how(rng, content)
    case.mutations.append(f"{path}: {how.__name__[1:]}: {told}")
    return use_model(rng, case)


def _break_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    return mutate_bytes.mutate(rng, content)


def _break_archive(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """The parts are changed before they are packed, so that the archive itself is right."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return mutate_bytes.mutate(rng, content[: content.index(b"storag") + 4000])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickle_name = next(name for name in parts if name.endswith("data.pkl"))
    name = pickle_name if rng.random() < 0.6 else rng.choice(list(parts))
    if rng.random() < 0.1:
        del parts[name]
        return _archive(parts), f"{name} removed"
    parts[name], told = mutate_bytes.mutate(rng, parts[name])
    return _archive(parts), f"{name}: {told}"


def _archive(parts: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name), part)
    return packed.getvalue()


def _odd_object(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    import torch

    state: Any = torch.load(io.BytesIO(content), weights_only=True)
    key = rng.choice(list(state))
    odd = {
        "a number": 3,
        "a text": "x",
        "None": None,
        "a folder of tensors": {"a": torch.zeros(2)},
        "a sparse tensor": state[key].to_sparse(),
        "a meta tensor": state[key].to("meta"),
        "a complex tensor": state[key].to(torch.complex64),
        "a parameter": torch.nn.Parameter(state[key]),
        "a transposed tensor": state[key].t() if state[key].ndim == 2 else state[key][::2],
        "10^10 numbers of one place": torch.zeros(1).expand(10**5, 10**5),
        "nothing": torch.zeros(0),
        "booleans": state[key] > 0,
    }
    name = rng.choice(list(odd))
    wrapped = {
        "a list": [state],
        "under a key": {"state_dict": state},
        "keys that are numbers": dict(enumerate(state)),
    }
    if rng.random() < 0.3:
        name = rng.choice(list(wrapped))
        state = wrapped[name]
    else:
        state[rng.choice((key, key, 7, None, ("a", 1), ""))] = odd[name]
    packed = io.BytesIO()
    torch.save(state, packed, _use_new_zipfile_serialization=rng.random() < 0.7)
    return packed.getvalue(), name


def _hostile(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Code that would leave a trace outside of the case's folder, and memory bombs."""
    import os

    bombs = {
        "mkdir": _Calls(os.mkdir, "../../outside/pwned"),
        "system": _Calls(os.system, "touch ../../outside/pwned"),
        "eval": _Calls(eval, "__import__('os').mkdir('../../outside/pwned')"),
        "bytearray": _Calls(bytearray, 10**10),
        "a deep tuple": _deep(),
        "many": [[0] * 1000] * 1000,
    }
    name = rng.choice(list(bombs))
    data = pickle.dumps(bombs[name], protocol=rng.choice((0, 2, 4)))
    if rng.random() < 0.3 or not zipfile.is_zipfile(io.BytesIO(content)):
        return data, f"{name}, bare"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    parts[next(part for part in parts if part.endswith("data.pkl"))] = data
    return _archive(parts), name


def _deep() -> tuple[Any, ...]:
    deep: tuple[Any, ...] = ()
    for _ in range(200):
        deep = (deep,)
    return deep

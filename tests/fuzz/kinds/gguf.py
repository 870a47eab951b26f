"""Cases that break a GGUF file: its bytes, its metadata, the rows of its tensors."""

import random
from dataclasses import replace

from tests.fuzz import gguf_file, mutate_bytes, mutate_files, values
from tests.fuzz.bases import Bases
from tests.fuzz.case import MODEL, Case
from tests.fuzz.gguf_file import File, Tensor, Value
from tests.fuzz.kinds.commands import new_case, use_model

_PATH = f"{MODEL}/model.gguf"
_SIZES = (0, 1, 3, 32, 63, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_ALIGNMENTS = (
    Value(4, 0),
    Value(4, 3),
    Value(4, 2**31),
    Value(10, 2**63),
    Value(6, 0.5),
    Value(8, "32"),
    Value(5, -32),
)


def gguf(rng: random.Random, bases: Bases) -> Case:
    """A GGUF file of bytes or of sentencepiece's pieces."""
    case = new_case(bases.get(rng.choice(bases.under("gguf/"))))
    content = case.files[_PATH]
    assert isinstance(content, bytes)
    how = rng.random()
    if how < 0.2:
        content, told = mutate_bytes.mutate(rng, content)
    elif how < 0.25:
        mutate_files.mutate(rng, case, [_PATH])
        return use_model(rng, case, _PATH)
    else:
        file, told = gguf_file.read(content), ""
        change = rng.choice(
            (_metadata, _metadata, _metadata, _metadata, _tensor, _tensor, _alignment, _counts)
        )
        told = f"{change.__name__[1:]}: {change(rng, file)}"
        content = gguf_file.write(file)
    case.files[_PATH] = content
    case.mutations.append(told)
    return use_model(rng, case, _PATH)


def _metadata(rng: random.Random, file: File) -> str:
    """One key: its value, its type, its name, its place."""
    i = rng.randrange(len(file.metadata))
    key, value = file.metadata[i]
    how = rng.choice(("value", "value", "value", "type", "item", "remove", "rename", "twice", "array"))
    if how == "remove":
        del file.metadata[i]
    elif how == "rename":
        file.metadata[i] = (rng.choice(values.TEXTS), value)
    elif how == "twice":
        file.metadata.append((key, Value(value.kind, _other(rng, value), value.inner)))
    elif how == "type":
        file.metadata[i] = (key, Value(rng.choice((0, 1, 4, 5, 6, 7, 8, 10, 11, 12, 13, 255)), value.value))
    elif how == "array":
        file.metadata[i] = (key, Value(9, [value.value] * rng.choice((0, 1, 2, 1000)), value.kind))
    elif how == "item" and isinstance(value.value, list) and value.value:
        items = list(value.value)
        items[rng.randrange(len(items))] = rng.choice((*values.TEXTS, *values.NUMBERS))
        file.metadata[i] = (key, replace(value, value=items))
    else:
        file.metadata[i] = (key, replace(value, value=_other(rng, value)))
    new = dict(file.metadata).get(key)
    return f"{how} {key}: {str(value.value)[:60]!a} -> {str(new and new.value)[:60]!a}"


def _other(rng: random.Random, value: Value) -> object:
    if isinstance(value.value, list):
        items = value.value
        return rng.choice(([], items[:-1], items[1:], items * 2, items[:1] * 1000, items[::-1], items[:1]))
    if value.kind == 8:
        return rng.choice((*values.TEXTS, str(value.value)[:-1], "gpt2", "llama", "qwen2"))
    number = value.value if isinstance(value.value, int | float) else 0
    return rng.choice((*values.NUMBERS, number + 1, number - 1, number * 2, number * 1000, number / 2))


def _tensor(rng: random.Random, file: File) -> str:
    """One row of the table of tensors."""
    i = rng.randrange(len(file.tensors))
    old = file.tensors[i]
    changes: list[Tensor | None] = [
        None,
        replace(old, name=rng.choice((*values.TEXTS, old.name.replace("0", "9")))),
        replace(old, name=rng.choice(file.tensors).name),
        replace(
            old, sizes=rng.choice(([], [1] * 4, [1] * 5, [*old.sizes, 1], old.sizes[::-1], old.sizes[:1]))
        ),
        replace(old, sizes=[rng.choice(_SIZES), *old.sizes[1:]]),
        replace(old, sizes=[*old.sizes[:-1], old.sizes[-1] + rng.choice((-1, 1, 32))]),
        replace(old, kind=rng.choice((0, 1, 2, 3, 6, 8, 10, 14, 24, 30, 39, 99, 2**31))),
        replace(old, offset=rng.choice((old.offset + 1, old.offset + 32, old.offset - 32, *_SIZES))),
    ]
    new = rng.choice(changes)
    file.tensors[i : i + 1] = [] if new is None else [new]
    return f"{old} -> {new}"[:300]


def _alignment(rng: random.Random, file: File) -> str:
    value = rng.choice(_ALIGNMENTS)
    file.metadata.append(("general.alignment", value))
    return str(value)


def _counts(rng: random.Random, file: File) -> str:
    """The counts and lengths of the header."""
    which, number = rng.choice(("tensor_count", "metadata_count", "version", "array")), rng.choice(_SIZES)
    if which == "array":
        i = rng.choice([i for i, (_, value) in enumerate(file.metadata) if value.kind == 9])
        key, value = file.metadata[i]
        file.metadata[i] = (key, replace(value, length=number))
        return f"the length of {key} {number}"
    setattr(file, which, number)
    return f"{which} {number}"

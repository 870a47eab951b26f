"""Mutations of safetensors files: of the header's values, or of tensors in a file that stays well-formed."""

import json
import math
import random
import struct
from dataclasses import dataclass, replace
from typing import Any

from tests.fuzz import mutate_bytes, values

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2,
          "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4, "U64": 8, "C64": 8, "F8_E8M0": 1}  # fmt: skip


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def mutate(rng: random.Random, content: bytes, wanted: tuple[str, ...] = ()) -> tuple[bytes, str]:
    """A safetensors file with one thing changed; mostly at a tensor whose name holds one of `wanted`."""
    how = rng.random()
    if how < 0.15:
        return mutate_bytes.mutate(rng, content)
    header, data = _header(content)
    if how < 0.4:
        changed, told = values.mutate(rng, header)
        return _packed(values.dump(changed).encode(), data), told
    if how < 0.45:
        length = rng.choice((0, 1, len(content), 10**8, 2**31, 2**63, 2**64 - 1))
        return struct.pack("<Q", length) + content[8:], f"a header of {length} bytes"
    return _break_tensor(rng, header, data, wanted)


def _header(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _packed(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _break_tensor(
    rng: random.Random, header: dict[str, Any], data: bytes, wanted: tuple[str, ...]
) -> tuple[bytes, str]:
    metadata = header.pop("__metadata__", {})
    tensors = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors.append(_Tensor(name, entry["dtype"], tuple(entry["shape"]), data[begin:end]))
    likely = [i for i, t in enumerate(tensors) if any(word in t.name for word in wanted)]
    i = rng.choice(likely) if likely and rng.random() < 0.8 else rng.randrange(len(tensors))
    old = tensors[i]
    changes = (_rename, _retype, _reshape, _resize, _fill, _numbers, _same_as_other, None)
    if old.dtype == "U8" and old.data[:1] == b"{":
        changes += (_state, _state, _state, _state)
    change = rng.choice(changes)
    if change is None:
        del tensors[i]
        return _joined(metadata, tensors), f"{old.name} removed"
    tensors[i] = new = change(rng, old, tensors)
    return _joined(metadata, tensors), f"{change.__name__[1:]} {old.name}: {_told(old)} -> {_told(new)}"


def _told(tensor: _Tensor) -> str:
    return f"{tensor.name[:80]!a} {tensor.dtype} {list(tensor.shape)} {tensor.data[:40]!a}"


def _joined(metadata: dict[str, str], tensors: list[_Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for tensor in tensors:
        offsets = [at, at := at + len(tensor.data)]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
    return _packed(json.dumps(header).encode(), b"".join(tensor.data for tensor in tensors))


def _sized(tensor: _Tensor) -> _Tensor:
    """With as many bytes as its shape and type ask for: those that there are, again and again."""
    wanted = math.prod(tensor.shape) * _SIZES.get(tensor.dtype, 1)
    data = (tensor.data or b"\0") * (wanted // max(len(tensor.data), 1) + 1)
    return replace(tensor, data=data[:wanted])


def _rename(rng: random.Random, tensor: _Tensor, _: list[_Tensor]) -> _Tensor:
    name = rng.choice((*values.TEXTS, tensor.name + ".x", tensor.name.replace("0", "9"), tensor.name[1:]))
    return replace(tensor, name=name)


def _retype(rng: random.Random, tensor: _Tensor, _: list[_Tensor]) -> _Tensor:
    return _sized(replace(tensor, dtype=rng.choice(list(_SIZES))))


def _reshape(rng: random.Random, tensor: _Tensor, _: list[_Tensor]) -> _Tensor:
    """The same number of elements."""
    count = math.prod(tensor.shape)
    shapes = [(count,), (1, *tensor.shape), (*tensor.shape, 1), tensor.shape[::-1], (count, 1), (1, count)]
    return replace(tensor, shape=rng.choice(shapes))


def _resize(rng: random.Random, tensor: _Tensor, _: list[_Tensor]) -> _Tensor:
    """Another number of elements."""
    shape = list(tensor.shape) or [1]
    axis = rng.randrange(len(shape))
    shape[axis] = rng.choice((0, 1, shape[axis] - 1, shape[axis] + 1, shape[axis] * 2, shape[axis] // 2, 300))
    shapes = [tuple(max(size, 0) for size in shape), tuple(shape[:axis]), (), (0,), (1,) * 9]
    return _sized(replace(tensor, shape=rng.choices(shapes, [6, 1, 1, 1, 1])[0]))


def _fill(rng: random.Random, tensor: _Tensor, _: list[_Tensor]) -> _Tensor:
    pattern = rng.choice(
        (b"\x00", b"\xff", b"\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x80\x7f", b"\x80")
    )
    return _sized(replace(tensor, data=pattern))


def _numbers(rng: random.Random, tensor: _Tensor, _: list[_Tensor]) -> _Tensor:
    return replace(tensor, data=rng.randbytes(len(tensor.data)))


def _same_as_other(rng: random.Random, tensor: _Tensor, tensors: list[_Tensor]) -> _Tensor:
    return replace(rng.choice(tensors), name=tensor.name)


def _state(rng: random.Random, tensor: _Tensor, _: list[_Tensor]) -> _Tensor:
    """A tensor of bytes that are JSON: bitsandbytes' state of a matrix."""
    if rng.random() < 0.2:
        data, _told = mutate_bytes.mutate(rng, tensor.data)
    else:
        data = values.dump(values.mutate(rng, json.loads(tensor.data))[0]).encode()
    return replace(tensor, data=data, shape=(len(data),))

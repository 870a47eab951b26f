"""Reads and writes a GGUF file's header as it is, right or wrong. The format: ggml's docs/gguf.md."""

import math
import struct
from dataclasses import dataclass, field
from typing import Any

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class Value:
    """A value of the metadata: its type's number, in an array also its items', and a length that may be wrong."""

    kind: int
    value: Any
    inner: int = 0
    length: int | None = None


@dataclass(frozen=True)
class Tensor:
    """A row of the table of tensors; `sizes` the fastest first, `offset` in bytes from the data's begin."""

    name: str
    sizes: list[int]
    kind: int
    offset: int


@dataclass
class File:
    """A file's parts; a count is None where it is the right one."""

    version: int
    metadata: list[tuple[str, Value]]
    tensors: list[Tensor]
    data: bytes
    tensor_count: int | None = None
    metadata_count: int | None = None


@dataclass
class _Reader:
    content: bytes
    at: int = 0
    text: str = field(default="utf-8")

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self.content, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return value

    def string(self) -> str:
        length = self.number("Q")
        self.at += length
        return self.content[self.at - length : self.at].decode(self.text)

    def value(self, kind: int) -> Value:
        if kind == _TEXT:
            return Value(kind, self.string())
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            return Value(kind, [self.value(inner).value for _ in range(count)], inner)
        return Value(kind, self.number(_FORMATS[kind]))


def read(content: bytes) -> File:
    """The parts of a valid file with the default alignment."""
    reader = _Reader(content, 4)
    version, n_tensors, n_metadata = reader.number("I"), reader.number("Q"), reader.number("Q")
    metadata = [(reader.string(), reader.value(reader.number("I"))) for _ in range(n_metadata)]
    tensors = []
    for _ in range(n_tensors):
        name, n_sizes = reader.string(), reader.number("I")
        sizes = [reader.number("Q") for _ in range(n_sizes)]
        tensors.append(Tensor(name, sizes, reader.number("I"), reader.number("Q")))
    return File(version, metadata, tensors, content[-(-reader.at // 32) * 32 :])


def write(file: File) -> bytes:
    """The file; numbers that do not fit their type are cut."""
    counts = (file.tensor_count, len(file.tensors)), (file.metadata_count, len(file.metadata))
    parts = [b"GGUF", _number("I", file.version)]
    parts += [_number("Q", right if wrong is None else wrong) for wrong, right in counts]
    for key, value in file.metadata:
        parts += [_string(key), _number("I", value.kind), _value(value)]
    for tensor in file.tensors:
        sizes = [_number("Q", size) for size in tensor.sizes]
        parts += [_string(tensor.name), _number("I", len(sizes)), *sizes]
        parts += [_number("I", tensor.kind), _number("Q", tensor.offset)]
    header = b"".join(parts)
    return header + bytes(-len(header) % 32) + file.data


def _value(value: Value) -> bytes:
    if value.kind == _ARRAY:
        items = value.value if isinstance(value.value, list) else [value.value]
        length = len(items) if value.length is None else value.length
        written = b"".join(_value(Value(value.inner, item)) for item in items)
        return _number("I", value.inner) + _number("Q", length) + written
    if value.kind == _TEXT:
        return _string(str(value.value)[:200_000])
    return _number(_FORMATS.get(value.kind, "Q"), value.value)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded


def _number(kind: str, value: Any) -> bytes:
    number = value if isinstance(value, int | float) else 0
    if kind == "?":
        return struct.pack("<B", int(bool(number)))
    if kind in "fd":
        try:
            return struct.pack(f"<{kind}", number)
        except OverflowError:
            return struct.pack(f"<{kind}", math.inf)
    size = struct.calcsize(f"<{kind}")
    whole = int(number) if math.isfinite(number) else 0
    return (whole % 256**size).to_bytes(size, "little")

"""The header of a GGUF file: its metadata, and the offset of each tensor.

Written from the format's specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf`
package has a reader too, but it makes several numpy views for each string of the vocabulary: it takes 2.2 s
for the header of SmolLM2-135M, this one 0.1 s.
"""

from __future__ import annotations

import functools
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from mygpt.errors import InputError

ARCHITECTURES = ("llama",)  # that `checkpoint.py` reads
_VERSIONS = (2, 3)  # version 1 had 32-bit lengths and was replaced within months
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
# More are no model's: a header of objects takes twenty times the memory that it takes in the file.
_MOST_ENTRIES = 2**16  # of the metadata; and tensors
_MOST_STRING = 2**24  # bytes
_MOST_ELEMENTS = 2**23  # of all arrays that are read value by value
_ARRAYS = "tokenizer."  # the keys whose arrays are kept

_NUMBER_FORMATS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor's place in the file."""

    name: str
    shape: tuple[int, ...]  # in torch's order: (out, in)
    type: GGMLQuantizationType
    offset: int  # bytes from the start of the file
    nbytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """What stands in front of the weights; of arrays only the tokenizer's, the others may be of any size."""

    metadata: dict[str, Any]
    tensors: list[GGUFTensor]


def read_header(path: Path) -> GGUFHeader:
    """Read the header of a little-endian GGUF file of version 2 or 3.

    Raises:
        InputError: the file is not GGUF, big-endian, of another version, truncated or corrupt.
    """
    broken = f"{path} is truncated or corrupt; download it again"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_magic(path, data)
            header = _parse(_Cursor(data, at=8))
            end = 0
            for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
                if tensor.offset < end:
                    raise ValueError(f"{tensor.name} overlaps another tensor")
                end = tensor.offset + tensor.nbytes
            if end > len(data):
                raise InputError(f"{broken} ({len(data)} bytes of at least {end})")
            return header
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; check the path and its permissions"
        ) from error
    except (struct.error, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise InputError(broken) from error


def _check_magic(path: Path, data: mmap.mmap) -> None:
    if data[:4] != b"GGUF":
        raise InputError(f"{path} is not a GGUF file; download it again, or pass a Hugging Face folder")
    (version,) = struct.unpack_from("<I", data, 4)
    if version & 0xFFFF == 0:  # the bytes of a small number, the other way round
        raise InputError(f"{path} is a big-endian GGUF file; use a little-endian one")
    if version not in _VERSIONS:
        raise InputError(f"{path} is a GGUF file of version {version}; use one of version 2 or 3")


def _parse(cursor: _Cursor) -> GGUFHeader:
    n_tensors, n_entries = cursor.numbers("QQ")
    if max(n_tensors, n_entries) > _MOST_ENTRIES:
        raise ValueError(f"{n_tensors} tensors and {n_entries} values")
    metadata = dict(_entry(cursor) for _ in range(n_entries))
    entries = [_tensor_entry(cursor) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment}, no power of two")
    start = -(-cursor.at // alignment) * alignment
    tensors = [
        _place(name, dims, GGMLQuantizationType(type_), start + at) for name, dims, type_, at in entries
    ]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError("two tensors of one name")
    return GGUFHeader(metadata, tensors)


def _entry(cursor: _Cursor) -> tuple[str, Any]:
    key, raw_type = cursor.string(), cursor.number("I")
    if GGUFValueType(raw_type) is GGUFValueType.ARRAY:
        return key, cursor.array(keep=key.startswith(_ARRAYS))
    return key, cursor.value(raw_type)


def _tensor_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    n_dims = cursor.number("I")
    if not 0 < n_dims <= _MAX_DIMENSIONS:
        raise ValueError(f"{name} has {n_dims} dimensions")
    return name, cursor.numbers(f"{n_dims}Q"), cursor.number("I"), cursor.number("Q")


def _place(name: str, dims: tuple[int, ...], type_: GGMLQuantizationType, offset: int) -> GGUFTensor:
    block_size, block_bytes = GGML_QUANT_SIZES[type_]
    if math.prod(dims) == 0 or dims[0] % block_size:
        raise ValueError(f"{name} has the shape {dims}")
    # GGUF counts the fastest dimension first
    return GGUFTensor(name, dims[::-1], type_, offset, math.prod(dims) // block_size * block_bytes)


class _Cursor:
    """Reads values one after the other; `struct.error` or `ValueError` where the file ends too early."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data = data
        self.at = at
        self.elements = 0  # of arrays, read so far

    def numbers(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def number(self, layout: str) -> Any:
        return self.numbers(layout)[0]

    def string(self) -> str:
        size = struct.unpack_from("<Q", self.data, self.at)[0]
        end = self.at + 8 + size
        if end > len(self.data) or size > _MOST_STRING:
            raise ValueError("a string runs past the end of the file")
        text = self.data[self.at + 8 : end].decode()
        self.at = end
        return text

    def value(self, raw_type: int) -> Any:
        value_type = GGUFValueType(raw_type)
        if value_type is GGUFValueType.STRING:
            return self.string()
        return self.number(_NUMBER_FORMATS[value_type])

    def array(self, *, keep: bool) -> list[Any] | None:
        """An array's values; None where they are not to be kept, and so are passed over."""
        kind, count = GGUFValueType(self.number("I")), self.number("Q")
        layout = _NUMBER_FORMATS.get(kind)
        if layout and not keep:
            self.at += count * struct.calcsize(f"<{layout}")
            return None
        self.elements += count
        if self.elements > _MOST_ELEMENTS:
            raise ValueError(f"arrays of {self.elements} values")
        if layout:
            return list(self.numbers(f"{count}{layout}"))
        read = self.string if kind is GGUFValueType.STRING else functools.partial(self.array, keep=False)
        values: list[Any] = []
        for _ in range(count):
            value = read()
            if keep:
                values.append(value)
        return values if keep else None

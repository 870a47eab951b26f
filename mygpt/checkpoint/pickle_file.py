"""One `.bin` file, as torch.save writes state dicts: where its tensors lie, and the tensors, read from there.

Two formats: since torch 1.6 a zip archive with `data.pkl` and a file for each storage, before that pickles one after
the other and then the storages (torch/serialization.py, `_legacy_save`).
"""

from __future__ import annotations

import io
import mmap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mygpt.checkpoint.shapes import checked_shape
from mygpt.checkpoint.state_pickle import MOST_BYTES, NoStateDictError, PickledTensor, read_state
from mygpt.errors import InputError

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MOST_REPEATS = 4  # a storage may be that of several tensors, as of a tied head
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name


@dataclass(frozen=True)
class _Place:
    """A tensor, its type, and where its storage begins."""

    tensor: PickledTensor
    dtype: torch.dtype
    begin: int


class PickleFile:
    """A file's tensors, by `names`, in the order of their places. They are read, not mapped: each is a copy."""

    def __init__(self, path: Path) -> None:
        """Read the pickle.

        Raises:
            InputError: the file is truncated or corrupt, or holds more than weights.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                tensors, storages = (_zipped if zipfile.is_zipfile(file) else _legacy)(file)
                size = file.seek(0, 2)
            self._places = {name: _locate(name, tensor, storages) for name, tensor in tensors.items()}
        except NoStateDictError as error:
            raise InputError(
                f"{path} holds more than weights ({error}); use a safetensors version"
            ) from error
        except PermissionError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error
        except Exception as error:  # a corrupt pickle fails as its bytes happen to say
            raise InputError(f"{path} is truncated or corrupt; download it again") from error
        self.names = sorted(self._places, key=lambda name: self._places[name].begin)
        total = sum(shape.numel() * dtype.itemsize for shape, dtype in self.shapes().values())
        if total > _MOST_REPEATS * size:
            raise InputError(f"{path} has {total} bytes of tensors in {size}; do not trust this checkpoint")

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The shape and type of each tensor."""
        places = {name: self._places[name] for name in self.names}
        return {name: (torch.Size(place.tensor.shape), place.dtype) for name, place in places.items()}

    def read(self, name: str) -> Tensor:
        """A tensor.

        Raises:
            InputError: the file was cut short meanwhile.
        """
        place = self._places[name]
        tensor, size = place.tensor, place.dtype.itemsize
        if not tensor.extent:
            return torch.empty(tensor.shape, dtype=place.dtype)
        try:
            data = np.fromfile(
                self.path, np.uint8, tensor.extent * size, offset=place.begin + tensor.offset * size
            )
            numbers = torch.from_numpy(data).view(place.dtype)
            return numbers.as_strided(tensor.shape, tensor.stride).contiguous()
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.path} has changed while it was read; download it again") from error


# Where the storages lie: by their keys, their first byte and how many bytes they have.
_Storages = dict[str, tuple[int, int]]


def _locate(name: str, tensor: PickledTensor, storages: _Storages) -> _Place:
    """A tensor's place, once it is seen that it lies within its storage, and holds no number twice."""
    kind, sizes = tensor.storage.kind, (*tensor.stride, tensor.offset)
    if kind not in _DTYPES:
        raise NoStateDictError(f"{name} is a {kind}")
    dtype, (begin, nbytes) = _DTYPES[kind], storages[tensor.storage.key]
    shape = checked_shape(tensor.shape)
    if any(type(size) is not int or not 0 <= size < 2**63 for size in sizes):
        raise ValueError("no stride")
    if (tensor.offset + tensor.extent) * dtype.itemsize > nbytes or shape.numel() > tensor.extent:
        raise ValueError("larger than its storage")
    return _Place(tensor, dtype, begin)


def _zipped(file: BinaryIO) -> tuple[dict[str, PickledTensor], _Storages]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
    pickled = next(name for name in members if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("data.pkl")

    def member(name: str) -> tuple[int, int]:
        """Its first byte, and how many it has: they lie in the file as they are."""
        found = members[folder + name]
        file.seek(found.header_offset)
        header = file.read(_LOCAL_HEADER)
        if found.compress_type != zipfile.ZIP_STORED or header[:4] != b"PK\3\4":
            raise ValueError("compressed")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return _within(file, found.header_offset + _LOCAL_HEADER + lengths, found.file_size)

    def content(name: str) -> bytes:
        begin, size = member(name)
        if size > MOST_BYTES:
            raise NoStateDictError(f"{size} bytes of {name}")
        file.seek(begin)
        return file.read(size)

    if f"{folder}byteorder" in members and content("byteorder") != b"little":
        raise ValueError("not little-endian")
    tensors = _state_dict(io.BytesIO(content("data.pkl")))
    keys = {tensor.storage.key for tensor in tensors.values()}
    return tensors, {key: member(f"data/{key}") for key in keys}


def _legacy(file: BinaryIO) -> tuple[dict[str, PickledTensor], _Storages]:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        magic, _, system = (read_state(stream) for _ in range(3))
        if magic != _LEGACY_MAGIC or system["little_endian"] is not True:
            raise ValueError("no file of torch's")
        tensors = _state_dict(stream)
        kinds = {tensor.storage.key: tensor.storage.kind for tensor in tensors.values()}
        storages = {}
        for key in read_state(stream):
            if kinds[key] not in _DTYPES:
                raise NoStateDictError(f"a {kinds[key]}")
            size = int.from_bytes(stream.read(8), "little") * _DTYPES[kinds[key]].itemsize
            storages[key] = _within(file, stream.tell(), size)
            stream.seek(size, 1)
    return tensors, storages


def _within(file: BinaryIO, begin: int, size: int) -> tuple[int, int]:
    if begin + size > file.seek(0, 2):
        raise ValueError("a storage runs past the end of the file")
    return begin, size


def _state_dict(stream: Any) -> dict[str, PickledTensor]:
    state = read_state(stream)
    if not isinstance(state, dict) or not all(isinstance(value, PickledTensor) for value in state.values()):
        raise NoStateDictError("it is no plain list of weights")
    return state

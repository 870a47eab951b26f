"""One safetensors file: where its tensors lie, and the tensors, mapped into memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mygpt.checkpoint.shapes import checked_shape
from mygpt.errors import InputError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: bytes from the start of the file."""

    kind: str  # the format's name of its type
    shape: torch.Size
    begin: int
    end: int


class SafetensorsFile:
    """A file's tensors, by `names`, in the order of their places.

    Each tensor is a mapping of its own bytes alone, which ends with the tensor.

    The library's share a mapping of the whole file: one that is kept would keep in memory all that was
    touched of those that were cast or copied. A file that another process cuts short while a mapping is in use ends
    this process by SIGBUS; cut short before, it is an error.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            InputError: the file is truncated or corrupt.
        """
        self.path = path
        broken = f"{path} is truncated or corrupt; download it again"
        try:
            with path.open("rb") as stream:  # https://github.com/huggingface/safetensors#format
                with safe_open(
                    path, framework="pt"
                ):  # it checks the header, and the file's length against it
                    pass
                length = int.from_bytes(stream.read(8), "little")
                header: dict[str, Any] = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            self._places = {name: _place(8 + length, **entry) for name, entry in header.items()}
        except PermissionError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error
        except (SafetensorError, OSError) as error:
            raise InputError(f"{broken} ({_one_line(error)})") from error
        except (ValueError, TypeError) as error:  # as a shape that torch cannot hold
            raise InputError(broken) from error
        self.names = sorted(self._places, key=lambda name: self._places[name].begin)

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The shape and type of each tensor; InputError for a type that is not supported."""
        return {name: (self._places[name].shape, self._dtype(name)) for name in self.names}

    def read(self, name: str) -> Tensor:
        """A tensor, as it lies in the file.

        Raises:
            InputError: its type is not supported, or the file was cut short meanwhile.
        """
        place, dtype = self._places[name], self._dtype(name)
        if place.begin == place.end:
            return torch.empty(place.shape, dtype=dtype)
        try:
            # "c": writes would stay private, so that torch need not warn of memory that cannot be written.
            data = np.memmap(
                self.path, np.uint8, mode="c", offset=place.begin, shape=(place.end - place.begin,)
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} has changed while it was read; download it again") from error
        return torch.from_numpy(data).view(dtype).view(place.shape)

    def _dtype(self, name: str) -> torch.dtype:
        kind = self._places[name].kind
        if kind not in _DTYPES:
            raise InputError(f"{self.path}: {name} is stored as {kind}, which is not supported")
        return _DTYPES[kind]


def _place(start: int, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> _Place:
    return _Place(dtype, checked_shape(shape), start + data_offsets[0], start + data_offsets[1])


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

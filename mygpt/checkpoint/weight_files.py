"""Streams tensors from weight files: safetensors and `.bin`, single or sharded with an index."""

from __future__ import annotations

import gc
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mygpt.checkpoint.index import WANTED, is_index, read_index, weights_entry
from mygpt.errors import InputError

# The mapping of a .bin file counts as this process's memory as far as it was touched; so the file is mapped anew
# after this many bytes.
_REMAP_BYTES = 32 * 2**20


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The folder's weight files, each with the tensors it is to be read for (None: all).

    Raises:
        InputError: there are none, some are missing, or the index is broken or leaves the folder.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    entry = weights_entry(names)
    if entry is None:
        raise InputError(f"{folder} has no weights ({WANTED}); download it again")
    if not is_index(entry):
        return {folder / entry: None}
    shards = read_index(folder / entry)
    if missing := sorted(set(shards) - names):
        raise InputError(f"{folder} lacks the shards {', '.join(missing)}; download them")
    return {folder / shard: tensors for shard, tensors in shards.items()}


def file_tensors(file: Path, wanted: set[str] | None) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file (`wanted` of them, None: all) in the order of their places; safetensors are mapped.

    Raises:
        InputError: the file is truncated or corrupt, or lacks a wanted tensor.
    """
    names, read = _open_weights(file)
    if wanted is not None:
        if missing := sorted(wanted.difference(names)):
            raise InputError(
                f"{file} lacks {len(missing)} tensors, {missing[0]} the first; download it again"
            )
        names = [name for name in names if name in wanted]
    if file.suffix == ".bin" and zipfile.is_zipfile(file):
        yield from _copies(file, names)
        return
    for name in names:
        tensor = read(name)
        yield name, tensor
        del tensor  # a reference held here would keep its mapping


def _copies(file: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Copies of a .bin file's tensors: the tensors themselves would each keep the mapping of the whole file."""
    mapped, read = 0, _open_weights(file)[1]
    for name in names:
        if mapped > _REMAP_BYTES:
            mapped, read = 0, _open_weights(file)[1]
        mapped += (copy := read(name).clone()).nbytes
        yield name, copy
        del copy


def _open_weights(file: Path) -> tuple[list[str], Callable[[str], Tensor]]:
    """The names of the tensors in a file, in the order of their places, and a function that gets one."""
    if file.suffix == ".safetensors":
        return _open_safetensors(file)
    state = _load_pickle(file)
    return list(state), state.pop


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


def _open_safetensors(file: Path) -> tuple[list[str], Callable[[str], Tensor]]:
    """As `_open_weights`; each tensor is a mapping of its own bytes alone, which ends with the tensor.

    The library's tensors share a mapping of the whole file: one that is kept would keep in memory all that was
    touched of those that were cast or copied.
    """
    try:
        with safe_open(file, framework="pt"):  # it checks the header, and the file's length against it
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is truncated or corrupt; download it again ({_one_line(error)})") from error
    with file.open("rb") as stream:  # https://github.com/huggingface/safetensors#format
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)

    def read(name: str) -> Tensor:
        dtype, shape = header[name]["dtype"], header[name]["shape"]
        begin, end = header[name]["data_offsets"]
        if dtype not in _DTYPES:
            raise InputError(f"{file}: {name} is stored as {dtype}, which is not supported")
        if begin == end:
            return torch.empty(shape, dtype=_DTYPES[dtype])
        # "c": writes would stay private, so that torch need not warn of memory that cannot be written.
        data = np.memmap(file, np.uint8, mode="c", offset=8 + length + begin, shape=(end - begin,))
        return torch.from_numpy(data).view(_DTYPES[dtype]).view(shape)

    return sorted(header, key=lambda name: header[name]["data_offsets"]), read


def _load_pickle(file: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file. It is a pickle: nothing in it is ever run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol: it is read, or refused below
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        reason = "holds more than weights, or is corrupt"
        raise InputError(f"{file} {reason}; use a safetensors version, or download it again") from error
    except Exception as error:  # a corrupt pickle raises whatever its bytes happen to say
        raise InputError(f"{file} is truncated or corrupt; download it again ({_one_line(error)})") from error
    gc.collect()  # torch.load leaves a cycle of references, which would keep the mapping
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file} is no plain list of weights; use a safetensors version")
    return {name: tensor.detach() for name, tensor in state.items()}


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

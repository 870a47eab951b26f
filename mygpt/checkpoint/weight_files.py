"""Streams tensors from weight files: safetensors and `.bin`, single or sharded with an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from mygpt.checkpoint.index import WANTED, is_index, read_index, weights_entry
from mygpt.checkpoint.pickle_file import PickleFile
from mygpt.checkpoint.safetensors_file import SafetensorsFile
from mygpt.errors import InputError

WeightFile = SafetensorsFile | PickleFile


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


def open_weights(file: Path, wanted: set[str] | None) -> WeightFile:
    """Read the header of a file; `wanted` are the tensors that it must hold (None: any).

    Raises:
        InputError: the file is truncated or corrupt, or lacks a wanted tensor.
    """
    opened = SafetensorsFile(file) if file.suffix == ".safetensors" else PickleFile(file)
    if wanted is not None:
        if missing := sorted(wanted.difference(opened.names)):
            raise InputError(
                f"{file} lacks {len(missing)} tensors, {missing[0]} the first; download it again"
            )
        opened.names = [name for name in opened.names if name in wanted]
    return opened


def file_tensors(file: WeightFile) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file in the order of their places.

    Raises:
        InputError: the file was cut short meanwhile.
    """
    for name in file.names:
        tensor = file.read(name)
        yield name, tensor
        del tensor  # a reference held here would keep its mapping

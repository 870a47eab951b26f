"""A folder as the Hugging Face Hub has it, as a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.disk import check_room
from mygpt.checkpoint.index import TOKENIZER_FILES
from mygpt.checkpoint.weight_files import WeightFile, file_tensors, open_weights, weight_files
from mygpt.errors import InputError
from mygpt.json_files import is_file, read_bytes, read_json

if TYPE_CHECKING:
    from mygpt.text.tokenizer import Tokenizer


class HFFolder(Checkpoint):
    """A folder as the Hub has it: `config.json`, and safetensors or `.bin` files, single or sharded.

    Safetensors are mapped into memory, not read: what the consumer keeps as it is costs no memory of its own, and
    what it casts or moves is gone when it drops the tensor.
    """

    def __init__(self, path: Path) -> None:
        """Read the configuration and the list of weight files.

        Raises:
            InputError: they are missing or broken.
        """
        self.path = path
        try:
            if not (path / "config.json").is_file():
                raise InputError(_why_no_config(path))
            self.config = read_json(path / "config.json")
            self.generation_config = read_json(path / "generation_config.json")
            self._files = weight_files(path)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error

    @cached_property
    def _opened(self) -> list[WeightFile]:
        """The files, their headers read once."""
        return [open_weights(file, names) for file, names in self._files.items()]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights, file by file, in the order of their places."""
        for file in self._opened:
            yield from file_tensors(file)

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The shape and type of each tensor, found once."""
        return self._shapes

    @cached_property
    def _shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: found for file in self._opened for name, found in file.shapes().items()}

    @property
    def mapped_dtype(self) -> torch.dtype | None:
        """Of safetensors, that of the first floats."""
        if any(file.suffix != ".safetensors" for file in self._files):
            return None
        return next((dtype for _, dtype in self.shapes().values() if dtype.is_floating_point), None)

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the folder's files; None where there are none."""
        from mygpt.text.tokenizer import Tokenizer

        return Tokenizer.from_folder(self.path) if self._tokenizer_files() else None

    def write_tokenizer(self, folder: Path) -> None:
        """Copy the folder's files.

        Raises:
            InputError: one cannot be read, or is a device or a pipe, which may have no end.
            RunError: the disk is full.
        """
        files = self._tokenizer_files()
        check_room(folder, sum(file.stat().st_size for file in files), f"the tokenizer of {self.path}")
        for file in files:
            (folder / file.name).write_bytes(read_bytes(file) or b"")

    def _tokenizer_files(self) -> list[Path]:
        return [self.path / name for name in TOKENIZER_FILES if is_file(self.path / name)]


def _why_no_config(folder: Path) -> str:
    gguf = sorted(folder.glob("*.gguf"))
    if gguf:
        return (
            f"{folder} holds GGUF files, no Hugging Face model; pass the file itself, for example {gguf[0]}"
        )
    return f"{folder} has no config.json; pass a folder that holds a Hugging Face model"

"""Checkpoints as streams of (name, tensor).

A checkpoint is a folder as the Hub has it (`config.json` and safetensors or `.bin` files, single or sharded)
or a GGUF file (`gguf_checkpoint.py`). Safetensors are mapped into memory, not read: what the consumer keeps as it
is costs no memory of its own, and what it casts or moves is gone when it drops the tensor.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mygpt.checkpoint.weight_files import file_tensors, weight_files
from mygpt.errors import InputError
from mygpt.json_files import read_json

if TYPE_CHECKING:
    from mygpt.text.tokenizer import Tokenizer

_TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
)


class Checkpoint(ABC):
    """An opened checkpoint; nothing of its weights is read yet."""

    path: Path
    config: dict[str, Any]  # the content of config.json
    generation_config: dict[str, Any]  # the content of generation_config.json; {} where there is none

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights, one by one, under their Hugging Face names and in the type they are stored in.

        Drop (`del`) or overwrite each tensor before taking the next to keep memory low.

        Raises:
            InputError: a file is truncated or corrupt, or lacks tensors that it should hold.
        """

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The shape and type of each tensor that `tensors` yields, without reading data."""
        return {name: (tensor.shape, tensor.dtype) for name, tensor in self.tensors()}

    @abstractmethod
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's own tokenizer; None where it holds none.

        Raises:
            InputError: its files are broken or incomplete.
        """

    @abstractmethod
    def write_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files, if there are any, and the chat template with them."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a Hugging Face folder or a `.gguf` file.

    Raises:
        InputError: there is no such thing, or its configuration or list of weights is missing or broken.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    if path.suffix.lower() != ".gguf":
        raise InputError(f"{path} is neither a folder nor a .gguf file; pass the folder that holds it")
    from mygpt.checkpoint.gguf.checkpoint import GGUFCheckpoint  # it builds on this module

    return GGUFCheckpoint(path)


class _Folder(Checkpoint):
    """A folder as the Hugging Face Hub has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "config.json").is_file():
            raise InputError(_why_no_config(path))
        self.config = read_json(path / "config.json")
        self.generation_config = read_json(path / "generation_config.json")
        self._files = weight_files(path)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for file, names in self._files.items():
            yield from file_tensors(file, names)

    def tokenizer(self) -> Tokenizer | None:
        from mygpt.text.tokenizer import Tokenizer

        return Tokenizer.from_folder(self.path) if self._tokenizer_files() else None

    def write_tokenizer(self, folder: Path) -> None:
        for file in self._tokenizer_files():
            shutil.copyfile(file, folder / file.name)

    def _tokenizer_files(self) -> list[Path]:
        return [file for pattern in _TOKENIZER_FILES for file in self.path.glob(pattern)]


def _why_no_config(folder: Path) -> str:
    gguf = sorted(folder.glob("*.gguf"))
    if gguf:
        return (
            f"{folder} holds GGUF files, no Hugging Face model; pass the file itself, for example {gguf[0]}"
        )
    return f"{folder} has no config.json; pass a folder that holds a Hugging Face model"

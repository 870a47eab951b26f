"""What a checkpoint is: a configuration, a tokenizer, and a stream of (name, tensor)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mygpt.quantize.schemes import Scheme, stored_scheme

if TYPE_CHECKING:
    from mygpt.text.tokenizer import Tokenizer


class Checkpoint(ABC):
    """An opened checkpoint; nothing of its weights is read yet."""

    path: Path
    config: dict[str, Any]  # the content of config.json
    generation_config: dict[str, Any]  # the content of generation_config.json; {} where there is none

    @property
    def scheme(self) -> Scheme | None:
        """How the weights are stored, as `config` says; None: as floats, which is what a GGUF file's come as.

        Raises:
            InputError: in a way that is not supported.
        """
        return stored_scheme(self.config, str(self.path))

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

    @property
    def mapped_dtype(self) -> torch.dtype | None:
        """The type of most weights where `tensors` yields them as they lie in the file; None where it yields copies."""
        return None

    @abstractmethod
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's own tokenizer; None where it holds none.

        Raises:
            InputError: its files are broken or incomplete.
        """

    @abstractmethod
    def write_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files, if there are any, and the chat template with them."""

"""Open a checkpoint: a Hugging Face folder or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.hf_folder import HFFolder
from mygpt.errors import InputError


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a Hugging Face folder or a `.gguf` file.

    Raises:
        InputError: there is no such thing, or its configuration or list of weights is missing or broken.
    """
    if path.is_dir():
        return HFFolder(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    if path.suffix.lower() != ".gguf":
        raise InputError(f"{path} is neither a folder nor a .gguf file; pass the folder that holds it")
    from mygpt.checkpoint.gguf.checkpoint import GGUFCheckpoint  # its library takes its time

    return GGUFCheckpoint(path)

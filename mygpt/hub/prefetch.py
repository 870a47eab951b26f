"""Reads a model's weights from the disk while Python imports torch: when they are mapped, they are in memory."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from mygpt.checkpoint.index import is_index, read_index, weights_entry
from mygpt.errors import InputError
from mygpt.hub import default_model
from mygpt.hub import resolve as hub


def read_ahead(checkpoint: str | None, revision: str | None = None) -> threading.Thread:
    """Begin, where the model is here and half of the machine's memory holds it; returns what does it."""
    thread = threading.Thread(
        target=_read, args=(checkpoint or default_model.REPO, revision), daemon=True, name="mygpt-read"
    )
    thread.start()
    return thread


def _read(checkpoint: str, revision: str | None) -> None:
    with contextlib.suppress(InputError, OSError, AttributeError):  # `load` tells; a system without fadvise
        path = hub.find(checkpoint, revision)
        files = _weight_files(path) if path is not None else []
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if sum(file.stat().st_size for file in files) <= memory / 2:
            for file in files:
                _fetch(file)


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    entry = weights_entry([file.name for file in path.iterdir()])
    if entry is None:
        return []
    return [path / name for name in read_index(path / entry)] if is_index(entry) else [path / entry]


def _fetch(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)

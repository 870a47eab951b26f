"""Read a model's weights from the disk while Python imports torch: they are in memory when they are mapped."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from mygpt.checkpoint.index import is_index, read_index, weights_entry
from mygpt.hub.default_model import REPO
from mygpt.hub.resolve import find


def prefetch(checkpoint: str | None, revision: str | None = None) -> threading.Thread:
    """Start to read the weights; returns the thread that does it.

    It does nothing for a model that must be downloaded first, or is larger than half of the machine's memory.
    """
    arguments = (checkpoint or REPO, revision)
    thread = threading.Thread(target=_prefetch, args=arguments, daemon=True, name="mygpt-prefetch")
    thread.start()
    return thread


def _prefetch(checkpoint: str, revision: str | None) -> None:
    # It is a mere hint, and a thread's error would be a traceback. `load` reports what is wrong.
    with contextlib.suppress(Exception):
        path = find(checkpoint, revision)
        files = _weight_files(path) if path is not None else []
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if sum(file.stat().st_size for file in files) <= memory / 2:
            for file in files:
                _will_need(file)


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    entry = weights_entry([file.name for file in path.iterdir()])
    if entry is None:
        return []
    return [path / name for name in read_index(path / entry)] if is_index(entry) else [path / entry]


def _will_need(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)

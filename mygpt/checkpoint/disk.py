"""Whether there is room on a disk, and what is said where there was none."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mygpt.errors import RunError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(target: Path, nbytes: int) -> Iterator[None]:
    """Say in one line that the disk is full, or why else a file of the folder `target` cannot be written.

    Raises:
        RunError: in place of an OSError or an error of safetensors. `nbytes` is what the folder takes.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)", str(error))  # by safetensors, of the system
        number = int(told[1]) if told else getattr(error, "errno", None)
        why = os.strerror(number) if number is not None else str(error)
        if number not in _FULL:
            raise RunError(f"cannot write {target} ({why}); check its disk") from error
        raise RunError(
            f"cannot write {target} ({why}): it takes {gigabytes(nbytes)}; free some space, or name a folder on "
            "another disk"
        ) from error


def check_room(folder: Path, nbytes: int, what: str, remedy: str = "name a folder on another disk") -> None:
    """Check that `nbytes` fit on the disk of an existing folder.

    Raises:
        RunError: they do not.
    """
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return
    if disk.total and nbytes > disk.free:  # some network drives say 0
        raise RunError(
            f"{what} takes {gigabytes(nbytes)}, but the disk of {folder} has {gigabytes(disk.free)} left; "
            f"free some space, or {remedy}"
        )


def gigabytes(nbytes: float) -> str:
    """A size for people."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"

"""Where mygpt keeps what it made once: the default model, kernels, compiled code. How a file is written whole."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """`$MYGPT_CACHE`, else `mygpt` under the user's cache folder; it may not exist yet."""
    own, user = os.environ.get("MYGPT_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own or Path(user, "mygpt")).expanduser()
    except RuntimeError:  # a user without a home folder, as in some containers
        import tempfile

        return Path(tempfile.gettempdir(), f"mygpt-{user_number()}")


def user_number() -> str:
    """For names of what several users may each have one of. On Windows there is none."""
    return str(os.geteuid()) if hasattr(os, "geteuid") else "0"


def write_whole(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing: one that is there stays until the new one is on the disk.

    A link stays, and what it leads to is written; a file keeps its mode, a new one is for its owner only.

    Raises:
        OSError: it cannot be written, or it is a folder, a pipe or a device.
    """
    import tempfile  # only now: few runs write

    mode = _file_mode(path)
    path = path.resolve()
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name[:100]}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                Path(file.name).chmod(mode)
            file.close()  # Windows renames no open file
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _file_mode(path: Path) -> int | None:
    """The mode of a regular file; None where there is none yet."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return stat.S_IMODE(mode)

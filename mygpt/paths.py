"""Where mygpt keeps its files, which folders and programs it trusts, and how a file is written whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """`$MYGPT_CACHE`, else `mygpt` under the user's cache folder; it may not exist yet."""
    own, user = os.environ.get("MYGPT_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own or Path(user, "mygpt")).expanduser()
    except RuntimeError:  # a user without a home folder, as in some containers
        return Path(tempfile.gettempdir(), f"mygpt-{user_number()}")


def user_number() -> str:
    """For names of what several users may each have one of. On Windows there is none."""
    return str(os.geteuid()) if hasattr(os, "geteuid") else "0"


def code_folders(folder: Path, name: str) -> list[Path]:
    """Where code may be kept that will run, the best place first; `private_folder` says which of them can be used.

    They are a folder, one of this user within it (several may share a cache), and one among temporary files.
    """
    number = user_number()
    folders = [folder, folder / number]
    with suppress(FileNotFoundError):  # there are no temporary files either
        folders.append(Path(tempfile.gettempdir(), f"mygpt-{name}-{number}"))
    return [place.absolute() for place in folders]


def private_folder(folder: Path) -> Path:
    """Make a folder if it is not there, and see that nobody but this user can write to it.

    Raises:
        OSError: it cannot be made, or others can write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder.stat(), folder)
    return folder


def check_private(info: os.stat_result, folder: Path) -> None:
    """See by what `stat` says of a folder that it is this user's, and that nobody else can write to it.

    Raises:
        OSError: others can.
    """
    if hasattr(os, "geteuid") and (info.st_uid != os.geteuid() or info.st_mode & 0o022):
        raise PermissionError(errno.EPERM, "other users can write to it", str(folder))


def find_program(name: str) -> str | None:
    """The absolute path of a program; None where there is none.

    A relative folder in PATH, or an empty one, would be the current folder, which may hold anything.
    """
    folders = filter(os.path.isabs, os.environ.get("PATH", os.defpath).split(os.pathsep))
    found = shutil.which(name, path=os.pathsep.join(folders))
    return found and str(Path(found).absolute())


def write_whole(path: Path, text: str, like: Path | None = None) -> None:
    """Write a text file, all of it or nothing: one that is there stays until the new one is on the disk.

    A link stays, and what it leads to is written. A file keeps its mode; a new one has that of the file `like`, else
    it is for its owner only.

    Raises:
        OSError: it cannot be written, or it is a folder, a pipe or a device.
    """
    mode = _file_mode(path)
    if mode is None and like is not None:
        mode = _file_mode(like)
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

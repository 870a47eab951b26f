"""Code that mygpt runs but did not bring: programs that it finds, and folders that keep what it compiled."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from mygpt.paths import user_number


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

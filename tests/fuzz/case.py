"""A case: the files, the command line and the standard input of one run of mygpt."""

import contextlib
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODEL = "checkpoints/o/m"  # where a case's model lies; `o/m` is its name
OUTSIDE = "OUTSIDE"  # the target of a link to the canary, a file outside of the case's folder
CANARY = b'{"outside": true}\n'


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Fifo:
    """A named pipe that nobody writes to."""


@dataclass(frozen=True)
class Folder:
    """An empty folder."""


@dataclass(frozen=True)
class Unreadable:
    """A file that its owner may not read."""

    content: bytes


Entry = bytes | Link | Fifo | Folder | Unreadable


@dataclass
class Case:
    """One run. `files` are relative to the working folder; `mutations` tell what was done to a valid case."""

    kind: str
    files: dict[str, Entry]
    arguments: list[str]
    stdin: bytes = b""
    mutations: list[str] = field(default_factory=list)

    @property
    def unreadable(self) -> bool:
        """Whether a file may not be read: then its user may not start Python either, which a chat template needs."""
        return any(isinstance(entry, Unreadable) for entry in self.files.values())

    def add_model(self, files: Mapping[str, Entry]) -> None:
        """Put a model's files where `o/m` finds them."""
        self.files.update({f"{MODEL}/{name}": content for name, content in files.items()})


def write_files(case: Case, folder: Path, outside: Path) -> None:
    """Make the case's files in an empty folder. No link is followed: each file is new."""
    for name, entry in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, Link):
            path.symlink_to(outside if entry.target == OUTSIDE else entry.target)
        elif isinstance(entry, Fifo):
            os.mkfifo(path)
        elif isinstance(entry, Folder):
            path.mkdir()
        else:
            with path.open("xb") as file:
                file.write(entry.content if isinstance(entry, Unreadable) else entry)
            path.chmod(0o000 if isinstance(entry, Unreadable) else 0o600)


def give_to(folder: Path, user: int) -> None:
    """Make a user the owner of a folder and all that is in it, links themselves and not their targets."""
    os.chown(folder, user, user)
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            os.chown(Path(parent, name), user, user, follow_symlinks=False)


def remove(folder: Path) -> None:
    """Remove a folder; a link in it is unlinked, never followed."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ValueError(f"{folder} is no folder")
    for parent, folders, _ in os.walk(folder):  # does not follow links either
        for name in folders:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)


def command_line(case: Case, environment: Mapping[str, str], folder: Path, stdin: Path) -> str:
    """What runs the case again in a shell."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    words = ["env", "-C", str(folder), *variables, sys.executable, "-m", "mygpt", *case.arguments]
    with contextlib.suppress(UnicodeEncodeError):
        return f"{shlex.join(words)} < {shlex.quote(str(stdin))}"
    return f"(arguments that are no UTF-8) {case.arguments!a}"

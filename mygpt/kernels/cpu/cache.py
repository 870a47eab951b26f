"""A folder that keeps compiled libraries. What lies there is run, so nobody else may have written it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mygpt.paths import check_private

_CHECKSUM = 32  # digits


@dataclass(frozen=True)
class LibraryCache:
    """An open folder of this user alone.

    Attributes:
        number: its descriptor. By this it stays the same folder, whoever renames what lies above it.
    """

    number: int

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[LibraryCache]:
        """Open a folder.

        Raises:
            OSError: it is not there, or others can write to it.
        """
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            check_private(os.fstat(number), folder)
            yield cls(number)
        finally:
            os.close(number)

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(f"/proc/self/fd/{self.number}")

    def find(self, key: str) -> Path | None:
        """The library that `keep` has put here for a key; what is not that any more is removed."""
        for library in self.path.glob(f"{key}-*.so"):
            own = library.lstat().st_uid == os.geteuid()
            if own and library.stem == _stem(key, library.read_bytes()):
                return library
            library.unlink()
        return None

    def keep(self, library: Path, key: str) -> Path:
        """Move a library here, whole and written to the disk."""
        kept = self.path / f"{_stem(key, library.read_bytes())}.so"
        with library.open("rb") as file:
            os.fsync(file.fileno())
        library.rename(kept)
        os.fsync(self.number)
        return kept

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that builds here; what one that was ended has left is removed."""
        import fcntl  # not on Windows

        try:
            fcntl.flock(self.number, fcntl.LOCK_EX)
        except OSError:  # some disks of a network have no locks: two may build the same
            yield
            return
        for left in self.path.glob("tmp*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self.number, fcntl.LOCK_UN)


def _stem(key: str, contents: bytes) -> str:
    return f"{key}-{hashlib.sha256(contents).hexdigest()[:_CHECKSUM]}"

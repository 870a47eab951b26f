"""A folder that appears when all of it is written, also where another process writes it too or this one is killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mygpt.checkpoint.disk import check_room
from mygpt.errors import InputError, RunError


def check_new(target: Path) -> None:
    """Check that a folder can be made, before work is spent on what is to lie in it.

    Raises:
        InputError: it exists, its name is too long, or a file is where a folder above it must be.
    """
    try:
        target.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _cannot_make(target, error) from error
    raise InputError(f"{target} exists; name a new folder, or remove it")


@contextmanager
def new_folder(target: Path, nbytes: int) -> Iterator[Path]:
    """A folder to write `nbytes` or so into, which becomes `target` at the end; of a failure nothing is left.

    Raises:
        InputError: the target exists, cannot be made, or is being written by another process.
        RunError: the disk has not that much room.
    """
    check_new(target)
    partial = target.with_name(f".{target.name}.partial")
    with _lock(target):
        check_new(target)  # another process may have made it before this one had the lock
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        check_room(target.parent, nbytes, str(target))
        try:
            try:
                partial.mkdir()
            except OSError as error:
                raise _cannot_make(target, error) from error
            yield partial
            _rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process write a folder; the system lets go of the lock when that process ends, however it does."""
    from filelock import FileLock, Timeout

    file = target.with_name(f".{target.name}.lock")
    lock = FileLock(file, timeout=0)
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise InputError(
                f"another process is writing {target}; wait until it has ended, or name another folder"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise _cannot_make(target, error) from error
        yield
    finally:
        if lock.is_locked:
            removed = _unlink(file)
            lock.release()
            if not removed:  # Windows removes no file that is open
                _unlink(file)


def _unlink(file: Path) -> bool:
    try:
        file.unlink()
    except OSError:
        return False
    return True


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError as error:
        check_new(target)  # somebody else has made it meanwhile
        raise RunError(f"cannot write {target}: {error.strerror}; name another folder") from error


def _cannot_make(target: Path, error: Exception) -> InputError:
    why = getattr(error, "strerror", None) or str(error)
    return InputError(f"cannot write to {target} ({why}); name another folder")

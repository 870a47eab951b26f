"""Remove what `inventory` found, and nothing outside of the cache it was found in."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mygpt.errors import InputError, RunError
from mygpt.hub.inventory import CachedModel, CacheEntry

_SCRATCH = ".removed-"  # what is half removed must not pass for a model


def check_removable(entry: CacheEntry) -> None:
    """Check that an entry lies in its cache, also where the folders above it are links.

    Raises:
        InputError: it does not.
    """
    if not entry.path.parent.resolve().is_relative_to(entry.root.resolve()):
        raise InputError(
            f"{entry.name} lies behind a link, in {entry.path.parent.resolve()}, outside of {entry.root}: "
            "remove it there yourself"
        )


def freed_bytes(entry: CacheEntry) -> int:
    """The bytes that `remove` frees: none of a link, whose target stays."""
    return 0 if entry.path.is_symlink() else entry.size_bytes


def remove(entry: CacheEntry) -> None:
    """Remove an entry. Links are unlinked; what they lead to stays.

    Raises:
        InputError: see `check_removable`.
        RunError: the system does not let us.
    """
    check_removable(entry)
    try:
        if entry.path.is_symlink() or entry.path.is_file():
            entry.path.unlink()
        elif entry.place == "huggingface":
            _remove_repo(entry)
        else:
            _remove_folder(entry.path)
        if isinstance(entry, CachedModel) and entry.place == "checkpoints":
            _remove_empty(entry.path.parent, entry.root)
    except FileNotFoundError:
        return  # by someone else, meanwhile
    except OSError as error:
        raise RunError(
            f"cannot remove {entry.path} ({error.strerror or error}): check its permissions"
        ) from error


def _remove_repo(entry: CacheEntry) -> None:
    """By huggingface_hub, which knows the blobs that repositories share."""
    from huggingface_hub import scan_cache_dir

    cache = scan_cache_dir(entry.root)
    # A repository and its renamed copy have the same commits, and a commit would be deleted from either of them.
    own = [repo for repo in cache.repos if repo.repo_path == entry.path.resolve()]
    commits = [revision.commit_hash for repo in own for revision in repo.revisions]
    if commits:
        with _quiet():
            replace(cache, repos=frozenset(own)).delete_revisions(*commits).execute()
    if entry.path.exists():  # what it does not take for a repository, as a download that had just begun
        shutil.rmtree(entry.path)


@contextmanager
def _quiet() -> Iterator[None]:
    """huggingface_hub logs what it cannot remove, with a traceback; the error follows, in one line."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _remove_folder(folder: Path) -> None:
    """Move it away first: a removal that is interrupted leaves no half of it under its name."""
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder.parent))
    folder.rename(scratch / folder.name)
    for leftover in scratch.parent.glob(f"{_SCRATCH}*"):  # of earlier removals too
        shutil.rmtree(leftover)


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove the owner's folder if it holds nothing more."""
    if folder != root and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()

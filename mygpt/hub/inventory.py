"""What lies on this machine: models in ./checkpoints, in the Hugging Face cache and in mygpt's own; compiled code.

Uses no network and no torch.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mygpt.checkpoint.index import weights_entry
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.hub.default_model import REPO, find_default
from mygpt.hub.files import CONFIG, missing_files
from mygpt.hub.resolve import CHECKPOINTS
from mygpt.json_files import read_json
from mygpt.paths import cache_folder

PLACES = {"checkpoints": "./checkpoints", "huggingface": "the Hugging Face cache", "mygpt": "mygpt's cache"}
COMPILED = {"kernels": "C kernels for this CPU", "compile": "code of --compile"}


@dataclass(frozen=True)
class CacheEntry:
    """One thing that lies in a cache.

    Attributes:
        name: what `mygpt rm` takes.
        place: a key of PLACES.
        root: the folder of that place.
        path: the folder, file or link under `root` that holds it all.
        size_bytes: of its files.
    """

    name: str
    place: str
    root: Path
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class CachedModel(CacheEntry):
    """A model in a cache; its `name` is what commands take as CHECKPOINT.

    Attributes:
        folder: the folder, or the GGUF file, that commands read.
        family: its model_type, None where that is not supported or not known.
        missing: files that it lacks.
        note: how it is passed to commands, where its name is not enough.
        last_used: when its weights were last read, in seconds since 1970, as far as the file system records it.
    """

    folder: Path
    family: str | None
    missing: tuple[str, ...]
    note: str | None
    last_used: float | None

    @property
    def supported(self) -> bool | None:
        """Whether mygpt runs such models; None where its config.json is missing."""
        return None if CONFIG in self.missing else self.family is not None


def models() -> list[CachedModel]:
    """All models, by name; one that lies in two places comes twice."""
    found = [*_in_checkpoints(), *_in_hub_cache(), *_in_own_cache()]
    return sorted(found, key=lambda model: (model.name.lower(), model.place))


def compiled() -> list[CacheEntry]:
    """Compiled code in mygpt's own cache, by the names of COMPILED."""
    root = cache_folder()
    folders = [root / name for name in COMPILED if (root / name).is_dir()]
    return [CacheEntry(path.name, "mygpt", root, path, folder_size(path)[0]) for path in folders]


def hub_cache() -> Path:
    """The Hugging Face cache; it may not exist."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def folder_size(path: Path, timeout_s: float = math.inf) -> tuple[int, float | None]:
    """The bytes of the files in a folder, or of one file; and when the largest was last read.

    Links are not followed, but for blobs of the Hugging Face cache, which may lie in a store that repositories share.

    Raises:
        TimeoutError: there are so many files.
    """
    size, largest, used = 0, -1, None
    end = time.monotonic() + timeout_s
    for file in [path] if path.is_file() else _walk(path):
        if time.monotonic() > end:
            raise TimeoutError(f"more than {timeout_s:g} s to add up")
        try:
            status = file.stat() if file.parent.name == "blobs" or file == path else file.lstat()
        except OSError:  # removed meanwhile, or a link to nothing
            continue
        if stat.S_ISREG(status.st_mode):
            size += status.st_size
            if status.st_size > largest:
                largest, used = status.st_size, status.st_atime
    return size, used


def _walk(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _in_checkpoints() -> Iterator[CachedModel]:
    """Folders `checkpoints/<name>` and `checkpoints/<owner>/<name>`, and GGUF files at any of these levels."""
    for child in _children(CHECKPOINTS):
        yield from _gguf_model(child)
        if _holds_model(child):
            yield _folder_model(child)
            continue
        for grandchild in _children(child):
            yield from _gguf_model(grandchild)
            if _holds_model(grandchild):
                yield _folder_model(grandchild)
            else:
                for file in _children(grandchild):
                    yield from _gguf_model(file)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:  # not there, not a folder, not to be read
        return []


def _holds_model(folder: Path) -> bool:
    names = [path.name for path in _children(folder)]
    return CONFIG in names or any(name.endswith((".safetensors", ".bin")) for name in names)


def _folder_model(folder: Path) -> CachedModel:
    name = folder.relative_to(CHECKPOINTS).as_posix()
    size, used = folder_size(folder)
    return CachedModel(
        name, "checkpoints", CHECKPOINTS, folder, size, folder, _family(folder), _missing(folder), None, used
    )


def _gguf_model(file: Path) -> Iterator[CachedModel]:
    if file.suffix.lower() == ".gguf" and file.is_file():
        size, used = folder_size(file)
        family, missing = _read_gguf(file)
        yield CachedModel(
            file.as_posix(), "checkpoints", CHECKPOINTS, file, size, file, family, missing, None, used
        )


def _in_hub_cache() -> Iterator[CachedModel]:
    root = hub_cache()
    for repo in _children(root):
        kind, _, name = repo.name.partition("--")
        if kind != "models" or not repo.is_dir():
            continue
        size, used = folder_size(repo)
        folder, note = _snapshot(repo)
        family, missing = _family(folder), _missing(folder)
        gguf = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
        if gguf and weights_entry([path.name for path in _children(folder)]) is None:
            family, missing = _read_gguf(gguf[0])
            note = "pass the path of its .gguf file"
        yield CachedModel(
            name.replace("--", "/"), "huggingface", root, repo, size, folder, family, missing, note, used
        )


def _snapshot(repo: Path) -> tuple[Path, str | None]:
    """The folder of the main branch, or else the newest, and how commands get at it; it may not exist."""
    snapshots = {path.name: path for path in _children(repo / "snapshots") if path.is_dir()}
    references = repo / "refs"
    named = {_read(path): path.relative_to(references).as_posix() for path in _walk(references)}
    main = snapshots.get(_read(references / "main"))
    if main is not None or not snapshots:
        return main or repo / "snapshots", None
    newest = max(snapshots.values(), key=lambda path: path.stat().st_mtime)
    # A download that was interrupted has named no branch yet.
    return newest, f"--revision {named[newest.name]}" if newest.name in named else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _in_own_cache() -> Iterator[CachedModel]:
    folder = find_default()
    if folder is not None:
        size, used = folder_size(folder)
        family, missing = _family(folder), _missing(folder)
        yield CachedModel(REPO, "mygpt", folder.parent, folder, size, folder, family, missing, None, used)


def _family(folder: Path) -> str | None:
    try:
        return read_config(read_json(folder / CONFIG))[0].model_type
    except (InputError, OSError):
        return None


def _missing(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(missing_files(folder))
    except OSError:
        return (CONFIG,)
    except InputError:  # which names the index that is broken
        return (f"{weights_entry([path.name for path in _children(folder)])}",)


def _read_gguf(file: Path) -> tuple[str | None, tuple[str, ...]]:
    """Its family, and itself among the missing files if it is broken."""
    from mygpt.checkpoint.gguf.header import ARCHITECTURES, read_header

    try:
        architecture = read_header(file).metadata.get("general.architecture")
    except InputError:
        return None, (file.name,)
    return (architecture if architecture in ARCHITECTURES else None), ()

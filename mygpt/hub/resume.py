"""Resume a download that an earlier run did not finish.

huggingface_hub keeps complete files but deletes an incomplete one (seen in 2.4), which for weights is gigabytes.
Files sent over Xet, the Hub's own protocol, cannot be resumed.
"""

import contextlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mygpt.checkpoint.disk import check_room
from mygpt.errors import RunError

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_REMEDY = "set HF_HOME, or pass --checkpoint_dir, to a folder on another disk"
_STALE_S = 24 * 3600


def resume_file(repo: str, name: str, commit: str | None, target: Path | None, token: str | None) -> None:
    """Download a file, or the rest of it, to the path where `hf_hub_download` will find it. See `resolve.download`.

    Raises:
        RunError: the disk has no room for it, or what arrived differs from the Hub's.
    """
    from filelock import FileLock
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repo, name, revision=commit), str):
        return
    url = hf_hub_url(repo, name, revision=commit)
    file = get_hf_file_metadata(url, token=token)
    final = _final_path(repo, name, file, target)
    folder = _blobs(repo) if target is None else target
    folder.mkdir(parents=True, exist_ok=True)
    if final is None:
        check_room(folder, file.size or 0, f"{name} of {repo}", _REMEDY)
        return
    part = final.with_name(f"{file.etag}.incomplete")
    with FileLock(_lock_path(repo, file, target)):
        if final.exists():
            return
        done = part.stat().st_size if part.exists() else 0
        check_room(folder, (file.size or 0) - done, f"{name} of {repo}", _REMEDY)
        _download_rest(url, part, file, name, token)
        if not _intact(part, file):
            part.unlink()
            raise RunError(f"{name} arrived damaged and was deleted: run the same command again")
        part.replace(final)


def _final_path(repo: str, name: str, file: "HfFileMetadata", target: Path | None) -> Path | None:
    """The path where huggingface_hub would put this file; None if it must not or need not be resumed."""
    from huggingface_hub import constants

    over_xet = file.xet_file_data is not None and not constants.HF_HUB_DISABLE_XET
    if over_xet or file.etag is None or not re.fullmatch(r"[\w-]+", file.etag):
        return None
    if target is None:
        return _blobs(repo) / file.etag
    # huggingface_hub accepts a file that it did not write only if the etag is the file's SHA-256.
    return target / name if _is_sha256(file.etag) and not (target / name).exists() else None


def _blobs(repo: str) -> Path:
    """The folder of a repository's files in the Hugging Face cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"), "blobs")


def _lock_path(repo: str, file: "HfFileMetadata", target: Path | None) -> Path:
    """The lock that huggingface_hub takes for the same file in its cache."""
    folder = lock_folder(repo, target)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{file.etag}.lock"


def lock_folder(repo: str, target: Path | None) -> Path:
    """Where huggingface_hub has its locks for a repository in its cache, or for a folder of its own."""
    repo_folder = _blobs(repo).parent
    if target is None:
        return repo_folder.with_name(".locks") / repo_folder.name
    return target / ".cache" / "huggingface"


def clear_stale(repo: str, target: Path | None) -> None:
    """Remove what huggingface_hub left of downloads that were killed a day ago or earlier; none can go on with it."""
    folder = _blobs(repo) if target is None else lock_folder(repo, target) / "download"
    for file in folder.rglob("*.????????.incomplete"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _STALE_S:
                file.unlink()


def _download_rest(url: str, part: Path, file: "HfFileMetadata", name: str, token: str | None) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with part.open("ab") as stream:
        if file.size is not None and stream.tell() > file.size:  # of nothing that the Hub has
            stream.truncate(0)
            stream.seek(0)
        http_get(
            url,
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(token=token),
            expected_size=file.size,
            displayed_filename=name,
        )


def _intact(part: Path, file: "HfFileMetadata") -> bool:
    """Whether a file that several runs downloaded is the Hub's, as far as its etag can tell."""
    from huggingface_hub.utils.sha import sha_fileobj

    if not _is_sha256(file.etag):
        return True
    with part.open("rb") as stream:
        return sha_fileobj(stream).hex() == file.etag


def _is_sha256(etag: str | None) -> bool:
    return etag is not None and re.fullmatch(r"[0-9a-f]{64}", etag) is not None

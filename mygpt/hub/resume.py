"""Resume a download that an earlier run did not finish.

huggingface_hub keeps complete files but deletes an incomplete one (seen in 2.4), which for weights is gigabytes.
Files sent over Xet, the Hub's own protocol, cannot be resumed.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mygpt.errors import RunError

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata


def resume_file(repo: str, name: str, commit: str | None, target: Path | None, token: str | None) -> None:
    """Download a file, or the rest of it, to the path where `hf_hub_download` will find it. See `resolve.download`.

    Raises:
        RunError: the file arrived, but it differs from the Hub's.
    """
    from filelock import FileLock
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repo, name, revision=commit), str):
        return
    url = hf_hub_url(repo, name, revision=commit)
    file = get_hf_file_metadata(url, token=token)
    final = _final_path(repo, name, file, target)
    if final is None:
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f"{file.etag}.incomplete")
    with FileLock(_lock_path(repo, file)):
        if final.exists():
            return
        _download_rest(url, part, file, name, token)
        if not _intact(part, file):
            part.unlink()
            raise RunError(f"{name} arrived damaged and was deleted: run the same command again")
        part.replace(final)


def _final_path(repo: str, name: str, file: "HfFileMetadata", target: Path | None) -> Path | None:
    """The path where huggingface_hub would put this file; None if it must not or need not be resumed."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    over_xet = file.xet_file_data is not None and not constants.HF_HUB_DISABLE_XET
    if over_xet or file.etag is None or not re.fullmatch(r"[\w-]+", file.etag):
        return None
    if target is None:
        folder = repo_folder_name(repo_id=repo, repo_type="model")
        return Path(constants.HF_HUB_CACHE, folder, "blobs", file.etag)
    # huggingface_hub accepts a file that it did not write only if the etag is the file's SHA-256.
    return target / name if _is_sha256(file.etag) and not (target / name).exists() else None


def _lock_path(repo: str, file: "HfFileMetadata") -> Path:
    """The lock that huggingface_hub takes for the same file."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE, ".locks", repo_folder_name(repo_id=repo, repo_type="model"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{file.etag}.lock"


def _download_rest(url: str, part: Path, file: "HfFileMetadata", name: str, token: str | None) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with part.open("ab") as stream:
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

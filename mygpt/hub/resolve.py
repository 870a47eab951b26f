"""From a CHECKPOINT argument to a local folder or `.gguf` file, downloaded from the Hub if necessary."""

import os
import re
from pathlib import Path

from mygpt.errors import InputError
from mygpt.hub.default_model import REPO, fetch_default, use_default
from mygpt.hub.errors import HubUnreachableError
from mygpt.hub.fetch import Check, fetch_config, fetch_model
from mygpt.hub.files import CONFIG, missing_files
from mygpt.hub.short_names import repo_of, suggestion
from mygpt.messages import tell

CHECKPOINTS = Path("checkpoints")  # where litgpt users keep their weights: ./checkpoints/<owner>/<name>

_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)"
)  # of a page of the Hub


def resolve(
    checkpoint: str | None,
    *,
    access_token: str | None = None,
    revision: str | None = None,
    check: Check | None = None,
) -> Path:
    """Find a model: a local path, `./checkpoints/<repo>`, the Hugging Face cache, then by download.

    Args:
        checkpoint: a folder, a `.gguf` file, a Hub repository or a short name; None is the default model.
        access_token: for gated and private repositories; None takes HF_TOKEN or `hf auth login`'s.
        revision: a branch, tag or commit of the repository. Local paths and `./checkpoints` have none, so it
            rules them out.
        check: called before weights are downloaded.

    Raises:
        InputError: no such path, repository or revision, no access to it, or no connection.
        RunError: the download could not be stored.
    """
    checkpoint = REPO if checkpoint is None else _tell_long_name(checkpoint)
    found = find(checkpoint, revision)
    return found or download(checkpoint, access_token=access_token, revision=revision, check=check)


def find(checkpoint: str, revision: str | None = None) -> Path | None:
    """A model that is on this machine already; None if it must be downloaded.

    Raises:
        InputError: there is no such path, or the name is neither a path nor a repository.
    """
    checkpoint = long_name(checkpoint)
    path = _local_path(checkpoint)
    if path is not None and revision is not None:
        raise InputError(
            f"--revision is for Hub repositories, but {checkpoint!r} is a local path: leave it out"
        )
    if path is not None:
        return path
    repo = _repo_id(checkpoint)
    found = None if revision is not None else _in_checkpoints(repo)
    found = found or _in_cache(repo, revision)
    if found is None and _is_default(repo, revision):
        found = use_default()
    return found


def download(
    repo: str,
    *,
    checkpoint_dir: Path | None = None,
    access_token: str | None = None,
    revision: str | None = None,
    check: Check | None = None,
) -> Path:
    """Download what mygpt needs of a Hub repository, also if an older version of it is on this machine.

    Complete files are kept, and incomplete ones are resumed (see `resume.py`).

    Args:
        repo: the Hub repository, `owner/name`, or a short name.
        checkpoint_dir: put it into `<checkpoint_dir>/<repo>` instead of the Hugging Face cache.
        access_token: as in `resolve`.
        revision: as in `resolve`.
        check: as in `resolve`.

    Raises:
        InputError: no such repository or revision, no access to it, or no connection.
        RunError: the download could not be stored.
    """
    repo = _repo_id(_tell_long_name(repo))
    target = None if checkpoint_dir is None else checkpoint_dir / repo
    try:
        return fetch_model(repo, target, access_token, revision, check)
    except HubUnreachableError:
        if target is None and _is_default(repo, revision):
            return fetch_default()
        raise


def find_config(
    checkpoint: str | None, *, access_token: str | None = None, revision: str | None = None
) -> Path:
    """The `config.json` or `.gguf` file that describes a model. The weights need not be on this machine.

    Args:
        checkpoint: as in `resolve`, or a `.json` file.
        access_token: as in `resolve`.
        revision: as in `resolve`.

    Raises:
        InputError: there is no such file.
        RunError: the download could not be stored.
    """
    name = REPO if checkpoint is None else _tell_long_name(checkpoint)
    if name.lower().endswith(".json"):
        if not Path(name).expanduser().is_file():
            raise InputError(f"no such file: {name!r}")
        return Path(name).expanduser()
    if _local_path(name) is not None:
        path = resolve(name, revision=revision)
        return path if path.is_file() else path / CONFIG
    repo = _repo_id(name)
    local = CHECKPOINTS / repo / CONFIG
    if local.is_file() and revision is None:
        return local
    if _is_default(repo, revision) and (found := use_default()):
        return found / CONFIG
    try:
        return fetch_config(repo, access_token, revision)
    except HubUnreachableError:
        if _is_default(repo, revision):
            return fetch_default() / CONFIG
        raise


def _is_default(repo: str, revision: str | None) -> bool:
    return repo == REPO and revision is None


def long_name(checkpoint: str) -> str:
    """The repository that a short name stands for; anything else, and what has that very name here, as it is."""
    repo = repo_of(checkpoint)
    if repo is None or Path(checkpoint).exists() or (CHECKPOINTS / checkpoint).exists():
        return checkpoint
    return checkpoint if ":" not in checkpoint and _in_cache(checkpoint, None) else repo


def _tell_long_name(checkpoint: str) -> str:
    name = long_name(checkpoint)
    # Of several processes that load one model, the first of each machine tells.
    first = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    if name != checkpoint and first:
        tell(f"{checkpoint} is {name}")
    return name


def _local_path(checkpoint: str) -> Path | None:
    """The path if it exists, None if it can only be a repository."""
    if not checkpoint:
        return None  # Path("") is the current folder
    try:
        path = Path(checkpoint).expanduser()
        if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
            return path
        exists = path.exists()
    except (OSError, RuntimeError):  # a name that is too long, or an unknown ~user
        exists = False
    if exists:
        raise InputError(
            f"{checkpoint!r} is neither a folder nor a .gguf file: pass the folder that holds it"
        )
    if checkpoint.startswith((".", "/", "~")) or checkpoint.lower().endswith(".gguf"):
        raise InputError(f"no such folder or file: {checkpoint!r}")
    return None


def _repo_id(name: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        address = _ADDRESS.match(name)
        hint = f"; did you mean {address[1]}?" if address else suggestion(name)
        raise InputError(
            f"{name!r} is neither a local path nor a Hub repository (owner/name){hint}"
        ) from None
    return name


def _in_checkpoints(repo: str) -> Path | None:
    folder = CHECKPOINTS / repo
    if not folder.is_dir():
        return None
    if missing := missing_files(folder):
        # If the cache came next, a half-downloaded model would be downloaded again, all of it.
        raise InputError(
            f"{folder} is incomplete, it lacks {', '.join(missing[:3])}: move it away, or complete it with "
            f"mygpt download {repo} --checkpoint_dir {CHECKPOINTS}"
        )
    return folder


def _in_cache(repo: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return None if missing_files(folder) else folder

"""Download the files of a Hub repository that mygpt needs, into the Hugging Face cache or a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mygpt.checkpoint.index import is_index, read_index
from mygpt.errors import InputError, RunError
from mygpt.hub.answers import check_name, checked_answers
from mygpt.hub.errors import explain, hub_url
from mygpt.hub.files import CONFIG, needed_files
from mygpt.hub.resume import clear_stale, lock_folder, resume_file
from mygpt.messages import tell

# Gets a folder that holds all files but the weights; raises InputError if mygpt could not run the weights.
Check = Callable[[Path], None]


def fetch_model(
    repo: str, target: Path | None, access_token: str | None, revision: str | None, check: Check | None
) -> Path:
    """Download a repository into the folder `target`, or the cache; returns its folder. See `resolve.download`."""
    from huggingface_hub import get_token, hf_hub_download

    token = access_token if access_token is not None else get_token()
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise InputError(
            "the access token is empty or holds a space or control character: check --access_token, HF_TOKEN"
        )
    with _explained(repo, revision):
        names, commit = _listing(repo, revision, access_token)
        needed = needed_files(repo, names)
        tell(f"downloading {repo} from {hub_url()}")
        with _alone(repo, target):
            folder = _fetch_files(repo, target, access_token, commit, names, needed, check)
        if target is None:
            # The cache's branch moves last: until then an older, complete snapshot stays the one in use.
            hf_hub_download(repo, CONFIG, revision=revision, token=access_token)
        clear_stale(repo, target)
        return folder


def fetch_config(repo: str, access_token: str | None, revision: str | None) -> Path:
    """Download the `config.json` alone, if the cache has none. See `resolve.find_config`."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, CONFIG, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    with _explained(repo, revision):
        # Before `hf_hub_download`, which tries for half a minute to reach a Hub that is not there.
        if CONFIG not in _listing(repo, revision, access_token)[0]:
            raise InputError(f"{repo} holds no {CONFIG}: choose a repository in the Hugging Face layout")
        return Path(hf_hub_download(repo, CONFIG, revision=revision, token=access_token))


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Check what the Hub answers, and say in one line what went wrong."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's

    if len(revision or "") > 250:  # Git's own limit, about
        raise InputError(f"--revision {revision} is too long for a branch, tag or commit; check it")
    try:
        with checked_answers():
            yield
    except (InputError, RunError):
        raise
    # HTTP and disk errors; an answer that is not the Hub's JSON (ValueError, KeyError); hf_xet (RuntimeError)
    except (HTTPError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise explain(error, repo, revision) from error


def _listing(repo: str, revision: str | None, token: str | None) -> tuple[set[str], str | None]:
    """The names of a repository's files, and its commit."""
    from huggingface_hub import HfApi, constants

    api = HfApi(token=token)
    try:
        info = api.model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        names = {file.rfilename for file in info.siblings or ()}
    except (TypeError, AttributeError) as error:  # JSON, but of something else
        raise ValueError("not the Hub's answer") from error
    if info.sha is not None:
        check_name("commit", info.sha)
    return {name for name in names if isinstance(name, str)}, info.sha


@contextmanager
def _alone(repo: str, target: Path | None) -> Iterator[None]:
    """Let one process download into a folder. In its cache, huggingface_hub looks to that file by file."""
    from filelock import FileLock, Timeout

    if target is None:
        yield
        return
    folder = lock_folder(repo, target)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "mygpt.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"waiting for another process, which downloads into {target}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_files(
    repo: str,
    target: Path | None,
    token: str | None,
    commit: str | None,
    names: Collection[str],
    needed: tuple[list[str], str],
    check: Check | None,
) -> Path:
    """Fetch the small files first: where the weights are complete, everything is."""
    from huggingface_hub import hf_hub_download

    def fetch(name: str) -> Path:
        return Path(hf_hub_download(repo, name, revision=commit, local_dir=target, token=token))

    small, weights = needed
    # One file after the other. snapshot_download has threads, and Ctrl-C would wait for them; Xet, the Hub's own
    # protocol, fetches the parts of one file in parallel anyway.
    folder = [fetch(name).parent for name in small][-1]
    if check is not None:
        check(folder)
    weight_files = list(read_index(fetch(weights))) if is_index(weights) else [weights]
    if absent := sorted(set(weight_files).difference(names)):
        raise InputError(f"{repo} is broken, its {weights} names {absent[0]}, which it does not hold")
    for name in weight_files:
        resume_file(repo, name, commit, target, token)
        fetch(name)
    return folder

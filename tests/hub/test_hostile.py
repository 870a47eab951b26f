"""Whatever a server answers that calls itself the Hub: one line, no file elsewhere, no end of memory or disk."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from huggingface_hub import constants

from mygpt.errors import InputError, RunError
from mygpt.hub import answers
from mygpt.hub.resolve import download, find_config, resolve
from tests.fake_hub import FakeHub, Repo, etag
from tests.hub.test_resolve import CONFIG, REPO, SMALL, WEIGHTS, error_of

TARGETS = [None, Path("checkpoints")]
Answer = Callable[[BaseHTTPRequestHandler], None]
PAGE = f"/api/models/{REPO}"


@pytest.fixture(autouse=True)
def nothing_elsewhere(fake: FakeHub, tmp_path: Path):
    """Files lie in the cache and in ./checkpoints only, and none of another place was changed."""
    fake.repos[REPO] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    yield
    elsewhere = {path.name for path in tmp_path.iterdir()} - {"hf", "work", "mygpt"}
    elsewhere |= {path.name for path in (tmp_path / "work").iterdir()} - {"checkpoints"}
    elsewhere |= {path.name for path in (tmp_path / "hf").glob("*")} - {
        ".locks",
        f"models--{REPO.replace('/', '--')}",
        "CACHEDIR.TAG",
    }
    assert not elsewhere
    assert not list(tmp_path.rglob("*evil*"))


def send(
    handler: BaseHTTPRequestHandler, headers: dict[str, str], body: bytes = b"", status: int = 200
) -> None:
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key, value)
    handler.send_header("Connection", "close")
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def answer(fake: FakeHub, end: str, action: Answer, *methods: str) -> None:
    """Answer requests of these methods (none: all), whose path ends so, by `action`."""

    def hostile(handler: BaseHTTPRequestHandler, path: str) -> bool:
        if not path.endswith(end) or (methods and handler.command not in methods):
            return False
        action(handler)
        return True

    fake.hostile = hostile


def about(fake: FakeHub, data: bytes, **changes: str) -> dict[str, str]:
    """The headers of a file, some of them changed; `_` stands for `-`."""
    headers = {"ETag": etag(data), "X-Repo-Commit": fake.repos[REPO].commit, "Content-Length": str(len(data))}
    return headers | {key.replace("_", "-"): value for key, value in changes.items()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("header", ["ETag", "X_Linked_ETag", "X_Repo_Commit"])
@pytest.mark.parametrize("value", ["../../../evil", "/tmp/evil", "..", "C:evil", "x" * 300, 'W/"..\\evil"'])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_header_that_would_name_a_path(fake: FakeHub, target, header: str, value: str, file: str) -> None:
    data = {**SMALL, "model.safetensors": WEIGHTS}[file]
    answer(fake, file, lambda handler: send(handler, about(fake, data, **{header: value}), data))
    with pytest.raises(InputError, match="no plain name; do not trust this Hub"):
        download(REPO, checkpoint_dir=target)


@pytest.mark.parametrize("sha", ["../../evil", "a/b", "", ".", 3, ["x"], {"x": 1}])
def test_a_commit_that_would_name_a_path(fake: FakeHub, sha: object) -> None:
    body = json.dumps(
        {"id": REPO, "sha": sha, "siblings": [{"rfilename": name} for name in fake.repos[REPO].files]}
    )
    answer(fake, PAGE, lambda handler: send(handler, {}, body.encode()))
    assert "do not trust this Hub" in error_of(REPO)


@pytest.mark.parametrize(
    "body",
    [b"", b"no JSON", b"null", b"[]", b"3", b'"x"', b"[" * 10**6, b"\xff\xfe", b'{"id": 3, "siblings": 3}',
     b'{"siblings": ["config.json"]}', b'{"siblings": [{}]}', b'{"id": "x", "siblings": [{"rfilename": null}]}',
     b'{"id": "x", "siblings": {"rfilename": "config.json"}}', b'{"id": "x", "lastModified": 3, "siblings": []}'],
)  # fmt: skip
def test_a_listing_that_is_none(fake: FakeHub, body: bytes) -> None:
    answer(fake, PAGE, lambda handler: send(handler, {}, body))
    error_of(REPO)
    with pytest.raises(InputError):
        find_config(REPO)


def test_names_that_leave_the_folder_are_not_asked_for(fake: FakeHub) -> None:
    names = [
        "../evil",
        "/evil",
        "..\\evil",
        "C:\\evil",
        "evil\0",
        "evil\x1b[2J\n",
        "evil" * 10**4,
        "a/../../evil",
        ".",
    ]
    listed = [{"rfilename": name} for name in [*names, *fake.repos[REPO].files]]
    body = json.dumps({"id": REPO, "sha": fake.repos[REPO].commit, "siblings": listed}).encode()
    answer(fake, PAGE, lambda handler: send(handler, {"Content-Length": str(len(body))}, body))
    assert (resolve(REPO) / "model.safetensors").read_bytes() == WEIGHTS
    assert fake.fetched() == {*SMALL, "model.safetensors"}


def test_a_million_files(fake: FakeHub) -> None:
    body = (
        b'{"id": "x", "siblings": ['
        + b",".join([b'{"rfilename": "some/long/name.safetensors"}'] * 10**6)
        + b"]}"
    )
    answer(fake, PAGE, lambda handler: send(handler, {"Content-Length": str(len(body))}, body))
    assert "sends more than the 32.0 MB that were to come" in error_of(REPO)


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Goes on until nobody listens."""
    send(handler, {"Transfer-Encoding": "chunked", "ETag": "abc", "X-Repo-Commit": "abc"})
    if handler.command == "HEAD":
        return
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    try:
        while True:
            handler.wfile.write(chunk)
    except OSError:
        pass


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("end", [PAGE, "config.json", "model.safetensors"])
@pytest.mark.parametrize("methods", [("GET", "HEAD"), ("GET",)])
def test_a_body_without_end(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, target, end: str, methods
) -> None:
    """Also where a size was told before."""
    monkeypatch.setattr(answers, "_MOST_BYTES", 10**6)
    monkeypatch.setattr(answers, "_MOST_UNKNOWN_BYTES", 2 * 10**6)
    answer(fake, end, endless, *methods)
    with pytest.raises(InputError, match=r"sends more than the \d.\d MB that were to come"):
        download(REPO, checkpoint_dir=target)
    assert sum(path.stat().st_size for path in Path("..").rglob("*") if path.is_file()) < 4 * 10**6


@pytest.mark.parametrize("end", [PAGE, "config.json", "model.safetensors"])
def test_compressed_bytes_are_refused(fake: FakeHub, end: str) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Length": "3"}
    answer(fake, end, lambda handler: send(handler, headers, b"abc"), "GET")
    assert "answers in the encoding 'gzip'" in error_of(REPO)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("told", [10**18, -5, 10, 2**70])
def test_a_size_that_is_not_true(fake: FakeHub, target, told: int) -> None:
    """More than the disk has, or than what comes, or less."""
    headers = about(fake, WEIGHTS, X_Linked_Size=str(told))
    answer(fake, "model.safetensors", lambda handler: send(handler, headers, WEIGHTS), "HEAD")
    with pytest.raises((InputError, RunError)) as caught:
        download(REPO, checkpoint_dir=target)
    if told > 10**17:
        assert isinstance(caught.value, RunError)
        assert f"model.safetensors of {REPO} takes " in str(caught.value)
        assert "set HF_HOME" in str(caught.value)
    assert fake.ranges("model.safetensors") == ([] if told > 10**17 else [None])
    fake.hostile = None
    assert (download(REPO, checkpoint_dir=target) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("length", [0, 3, 10**9])
def test_a_length_that_is_not_true(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    headers = {"Content-Length": str(length)}
    answer(fake, "model.safetensors", lambda handler: send(handler, headers, WEIGHTS), "GET")
    assert f"cannot download {REPO}" in error_of(REPO)
    fake.hostile = None
    assert (resolve(REPO) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("end", [PAGE, "config.json", "model.safetensors"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "to", ["file://{secret}", "ftp://127.0.0.1/x", "http://[", "//", "\\\\host\\x", "gopher:"]
)
def test_a_redirection_away_from_http(fake: FakeHub, tmp_path: Path, end: str, method: str, to: str) -> None:
    secret = tmp_path / "work" / "checkpoints"
    secret.write_text("a secret of this machine")
    headers = about(fake, WEIGHTS, Location=to.format(secret=secret), Content_Length="0")
    answer(fake, end, lambda handler: send(handler, headers, status=302), method)
    if method == "GET":
        error_of(REPO)
    else:  # of weights the answer to GET counts, and of the listing there is only that
        with contextlib.suppress(InputError):
            assert (resolve(REPO) / "model.safetensors").read_bytes() == WEIGHTS
    copies = [
        path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == secret.read_bytes()
    ]
    assert copies == [secret]


def test_an_index_that_names_files_elsewhere(fake: FakeHub) -> None:
    for name in ("../evil", "/evil", "evil\0", "C:evil", "..", "x/evil"):
        shards = json.dumps({"weight_map": {"a": name}}).encode()
        fake.repos[REPO] = Repo({**SMALL, "model.safetensors.index.json": shards, name: b"x"})
        assert "no plain file name" in error_of(REPO)


@pytest.mark.parametrize("target", TARGETS)
def test_a_part_that_is_longer_than_its_file(fake: FakeHub, target) -> None:
    """It cannot be a part of it; the Hub would refuse to send the rest, in each run anew."""
    folder = (
        Path(constants.HF_HUB_CACHE, "models--owner--model", "blobs") if target is None else target / REPO
    )
    folder.mkdir(parents=True)
    (folder / f"{etag(WEIGHTS)}.incomplete").write_bytes(WEIGHTS + b"more")
    done = download(REPO, checkpoint_dir=target)
    assert (done / "model.safetensors").read_bytes() == WEIGHTS
    assert not list(folder.rglob("*.incomplete"))


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_killed_download_left_is_removed_a_day_later(fake: FakeHub, target) -> None:
    """huggingface_hub gives each a name of its own, and never looks at it again."""
    folder = Path(constants.HF_HUB_CACHE, "models--owner--model", "blobs")
    if target is not None:
        folder = target / REPO / ".cache" / "huggingface" / "download"
    folder.mkdir(parents=True)
    old, young = folder / f"{etag(b'x')}.0123abcd.incomplete", folder / f"{etag(b'x')}.4567cdef.incomplete"
    for file in (old, young):
        file.touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    download(REPO, checkpoint_dir=target)
    assert not old.exists()
    assert young.exists()  # perhaps another program is about it


def test_headers_are_checked_for_a_config_alone(fake: FakeHub) -> None:
    headers = about(fake, json.dumps(CONFIG).encode(), ETag="../../../evil")
    answer(fake, "config.json", lambda handler: send(handler, headers, json.dumps(CONFIG).encode()))
    with pytest.raises(InputError, match="do not trust this Hub"):
        find_config(REPO)

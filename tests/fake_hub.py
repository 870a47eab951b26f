"""A small Hugging Face Hub on 127.0.0.1: enough for huggingface_hub to download from."""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


@dataclass
class Repo:
    """One model repository with a single commit, which its branches and tags all name."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None  # gated: files are for requests that bring this token
    gated_status: int = 401

    @property
    def commit(self) -> str:
        listing = json.dumps({name: etag(data) for name, data in self.files.items()}, sort_keys=True)
        return hashlib.sha1(listing.encode()).hexdigest()


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cut_after: dict[str, int] = field(
        default_factory=dict
    )  # file name -> bytes after which it hangs up, once
    broken_status: int | None = None  # answer everything with this, as a proxy or a Hub that is down would
    broken_message: str | None = None  # why, as the Hub itself would say
    pause_s: float = 0.0  # between two parts of 64 KiB
    # Gets the handler and the path; answers in a way of its own and returns True, or returns False.
    hostile: Callable[[BaseHTTPRequestHandler, str], bool] | None = None
    url: str = ""

    def fetched(self) -> set[str]:
        """The names of the files whose content was asked for."""
        contents = [r.path for r in self.requests if r.method == "GET" and "/resolve/" in r.path]
        return {path.split("/resolve/")[1].split("/", 1)[1] for path in contents}

    def ranges(self, name: str) -> list[str | None]:
        """The Range header of each request for the content of a file."""
        return [r.range for r in self.requests if r.method == "GET" and r.path.endswith("/" + name)]


def etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Run a fake Hub in a thread of this process."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # who asked was killed
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        self.hub.requests.append(Request(self.command, path, headers["Range"], headers["Authorization"]))
        if self.hub.hostile is not None and self.hub.hostile(self, path):
            self.close_connection = True
        elif self.hub.broken_status is not None:
            message = self.hub.broken_message
            headers = {"X-Error-Message": message} if message else {}
            self._send(self.hub.broken_status, b"<html>no</html>", headers)
        elif path.startswith("/api/models/"):
            self._model_info(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            repo, _, rest = path[1:].partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._file(repo, revision, name)
        else:
            self._send(404, b"")

    def _find(self, name: str, revision: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in (*repo.revisions, repo.commit):
            self._refuse(404, "RevisionNotFound")
            return None
        return repo

    def _model_info(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        if repo := self._find(name, revision or "main"):
            siblings = [{"rfilename": file} for file in repo.files]
            body = {"id": name, "sha": repo.commit, "siblings": siblings}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, file: str) -> None:
        repo = self._find(name, revision)
        if repo is None:
            return
        if repo.token is not None and self.headers["Authorization"] != f"Bearer {repo.token}":
            self._refuse(repo.gated_status, "GatedRepo")
        elif file not in repo.files:
            self._refuse(404, "EntryNotFound")
        else:
            data = repo.files[file]
            about = {"ETag": f'"{etag(data)}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
            self._send_part(file, data, about)

    def _send_part(self, file: str, data: bytes, about: dict[str, str]) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start:
            about["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.hub.cut_after.pop(file, None) if self.command == "GET" else None
        self._send(206 if start else 200, data[start:], about, cut)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": f"no: {code}"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(body[:cut]), 2**16):
                self.wfile.write(body[:cut][start : start + 2**16])
                if self.hub.pause_s:
                    time.sleep(self.hub.pause_s)
        if cut is not None:
            self.close_connection = True


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Make huggingface_hub, which read its environment when it was imported, ask another Hub."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )

"""A fake Hub, empty caches and an empty working directory for each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from tests.fake_hub import FakeHub, serve, use_endpoint


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with serve() as fake:
        yield fake


@pytest.fixture
def fake(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """An empty fake Hub, empty caches, and an empty working directory."""
    server.repos, server.requests, server.cut_after, server.broken_status = {}, [], {}, None
    server.broken_message = server.hostile = None
    use_endpoint(monkeypatch, server.url)
    # huggingface_hub read its environment when it was imported
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MYGPT_CACHE", str(tmp_path / "mygpt"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # never PyPI itself
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return server

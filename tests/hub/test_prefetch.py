"""The weights' files are found and fetched into the page cache; what is wrong with them is told by `load` alone."""

import json
import os
import threading
from pathlib import Path

import pytest

from mygpt.hub import default_model
from mygpt.hub.default_model import REPO
from mygpt.hub.prefetch import prefetch


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers (inodes) of the files that the system was asked to fetch."""
    found: list[int] = []

    def fadvise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, 3)  # all of it, WILLNEED
        found.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "posix_fadvise", fadvise, raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    return found


def test_all_shards_are_fetched(tmp_path: Path, fetched: list[int]) -> None:
    shards = [tmp_path / f"model-{number}.safetensors" for number in (1, 2)]
    for shard in shards:
        shard.write_bytes(b"weights")
    index = {"weight_map": {"a": shards[0].name, "b": shards[1].name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "consolidated.safetensors").write_bytes(b"the same again")
    prefetch(str(tmp_path)).join()
    assert fetched == [shard.stat().st_ino for shard in shards]


def test_not_more_than_memory_holds(
    tmp_path: Path, fetched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(5000))
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PHYS_PAGES" else 4096)
    prefetch(str(file)).join()
    assert fetched == []


def _index(folder: Path, shard: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "no/weights/here", "", "half", "surrogate", "long", "pipe", "nobody"]
)
def test_nothing_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does it wait for anyone."""
    monkeypatch.chdir(tmp_path)
    tracebacks: list[object] = []
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    for folder in ("half", "surrogate", "long", "pipe"):
        (tmp_path / folder).mkdir()
    (tmp_path / "half" / "model.safetensors.index.json").write_text("{")
    _index(tmp_path / "surrogate", "model-\ud800.safetensors")
    _index(tmp_path / "long", "x" * 5000)
    os.mkfifo(tmp_path / "pipe" / "model.safetensors")
    if name == "nobody":
        name = REPO
        monkeypatch.delenv("MYGPT_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it is without a home folder
    thread = prefetch(name)
    thread.join(20)
    assert not thread.is_alive()
    assert tracebacks == []
    assert capfd.readouterr() == ("", "")


def test_two_threads_write_the_default_models_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that prefetches and the one that loads: neither puts the other's half-written file in place."""
    both, partials = threading.Barrier(2), []

    def replace(self: Path, target: Path) -> None:
        both.wait(20)
        partials.append(self)

    monkeypatch.setattr(Path, "replace", replace)
    threads = [threading.Thread(target=default_model._add_recommendations, args=(tmp_path,)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(partials)) == len(partials) == 4  # of two files

"""Caches of a test's own, with models in them."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.fake_hub import etag

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
CONFIG = json.dumps({"model_type": "llama", **dict.fromkeys(SIZES, 2), "hidden_size": 4}).encode()
MODEL = {"config.json": CONFIG, "tokenizer.json": b"{}", "model.safetensors": bytes(5000)}
COMMIT = "c0ffee"
SIZE = sum(map(len, MODEL.values()))
HUB_SIZE = SIZE + len(COMMIT)  # which refs/main holds
DEFAULT = "HuggingFaceTB/SmolLM2-135M-Instruct"


class Caches:
    """An empty working directory, an empty Hugging Face cache and an empty one of mygpt's."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self.own, self.work = root / "hub", root / "own", root / "work"
        self.checkpoints = self.work / "checkpoints"
        for folder in (self.hub, self.own, self.work):
            folder.mkdir()
        monkeypatch.chdir(self.work)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(self.hub))
        monkeypatch.setenv("MYGPT_CACHE", str(self.own))

    def store(
        self, name: str, files: dict[str, bytes] = MODEL, ref: str | None = "main", commit: str = COMMIT
    ) -> Path:
        """A repository as huggingface_hub keeps it; returns the folder of its snapshot."""
        repo = self.hub / f"models--{name.replace('/', '--')}"
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repo / "blobs").mkdir(exist_ok=True)
        for file, data in files.items():
            (repo / "blobs" / etag(data)).write_bytes(data)
            (snapshot / file).symlink_to(Path("../../blobs", etag(data)))
        if ref is not None:
            (repo / "refs").mkdir(exist_ok=True)
            (repo / "refs" / ref).write_text(commit)
        return snapshot

    def files(self) -> set[str]:
        """All that lies anywhere, as paths from the folder of all of them."""
        root = self.work.parent
        return {
            str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()
        }


def write(folder: Path, files: dict[str, bytes] = MODEL) -> Path:
    """Files in a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def used(path: Path, seconds: float) -> None:
    """Have a file last read at that time."""
    os.utime(path, (seconds, path.stat().st_mtime))

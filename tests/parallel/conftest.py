"""What the tests of commands over several ranks share."""

import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

make_model = runpy.run_path(str(ROOT / "benchmarks" / "make_model.py"))
LLAMA: dict[str, Any] = make_model["LLAMA"]
SMALL = LLAMA | {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}
Start = Callable[..., subprocess.Popen[str]]


def random_model(folder: Path, config: dict[str, Any], tokenizer: Path) -> Path:
    """A model of random weights, with the tokenizer of another folder."""
    torch.manual_seed(0)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).symlink_to(tokenizer / file)
    make_model["write_random"](folder / "model.safetensors", config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """A model of next to no weights, that two ranks divide."""
    return random_model(tmp_path_factory.mktemp("small"), SMALL, smollm2)


@pytest.fixture
def start() -> Start:
    """Starts `mygpt` in a process group of its own, as a shell does; what is left of it is ended after the test."""
    started = []

    def start(
        *arguments: object, launcher: Sequence[str] = (sys.executable,), **environment: object
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*launcher, "-m", "mygpt", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", **{k: str(v) for k, v in environment.items()}},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    left = [pid for process in started for pid in group(process.pid)]
    for process in started:
        if group(process.pid):
            os.killpg(process.pid, 9)
        process.communicate()
    assert not left, "processes were left behind"


def group(leader: int) -> list[int]:
    """The processes of a group that have not ended, its leader among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # ended meanwhile
            continue
        if int(of_group) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

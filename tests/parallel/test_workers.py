"""A worker does what rank 0 asks for within `load`, and ends with exit code 0: in a script, too."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mygpt import LLM
from mygpt.__main__ import main
from mygpt.errors import WorkerFinished
from mygpt.loading import load
from mygpt.model.gpt import GPT
from mygpt.model.kv_cache import KVCache
from mygpt.parallel.launch import RankGroup, _own_children
from mygpt.parallel.message_bus import MessageBus
from mygpt.parallel.placement import Placement
from tests.models import write_model
from tests.parallel.conftest import ROOT

CPU = torch.device("cpu")
MESSAGES = [
    [[], "allocate_cache", 0, 1, 4],
    [[], "forward", [[1, 2, 3]], [0, [0]], {"logits_indices": [2]}],
    [[], "reserve", 0, 9],
    [[], "allocate_cache", 1, 2, 2000],
    [[], "copy_rows", 1, 0, [0, 0]],
    [[0], "forward", [[4], [5]], [1, [3, 3]], {}],
    [[1], "forward", [[1, 2]], None, {}],
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """This process as rank 1 of two, to which rank 0 sends `MESSAGES`; what is called of model and caches, in order."""
    supervisor: Any = SimpleNamespace(explain_lost_connection=contextlib.nullcontext)
    none: Any = None
    ranks = RankGroup(1, 2, CPU, True, none, supervisor, none)
    placement = Placement("tensor", (CPU,), ("cpu:0", "cpu:1"), ranks)
    monkeypatch.setattr(load, "choose_placement", lambda config, options, checkpoint: placement)
    fill, whole = Placement.fill, Placement(None, (CPU,), ("cpu",))
    monkeypatch.setattr(Placement, "fill", lambda self, *arguments: fill(whole, *arguments))
    messages = iter([*MESSAGES, [[], "end"]])
    monkeypatch.setattr(MessageBus, "receive", lambda self: next(messages))

    seen: list[Any] = []
    forward, reserve, copy_rows = GPT.forward, KVCache.reserve, KVCache.copy_rows

    def recorded_forward(self: GPT, ids: torch.Tensor, cache: KVCache | None = None, **options: Any) -> Any:
        seen.append((ids.tolist(), cache and cache.lengths, options))
        return forward(self, ids, cache, **options)

    def recorded_reserve(self: KVCache, slots: int) -> None:
        reserve(self, slots)
        seen.append(("reserve", slots, self.slots >= slots))

    def recorded_copy_rows(self: KVCache, source: KVCache, rows: Any) -> None:
        copy_rows(self, source, rows)
        if isinstance(rows, list):  # else a part of `reserve`
            seen.append(("copy_rows", rows))

    monkeypatch.setattr(GPT, "forward", recorded_forward)
    monkeypatch.setattr(KVCache, "reserve", recorded_reserve)
    monkeypatch.setattr(KVCache, "copy_rows", recorded_copy_rows)
    return seen


EXPECTED_CALLS = [
    ([[1, 2, 3]], [0], {"logits_indices": [2]}),
    ("reserve", 9, True),
    ("copy_rows", [0, 0]),
    ([[4], [5]], [3, 3], {}),
    ([[1, 2]], None, {}),
]


def test_load_does_what_rank_0_asks_for_and_then_says_so(calls: list[Any], tmp_path: Path) -> None:
    """The exception passes a script's own `except Exception`: a worker never runs what comes after `load`."""
    with pytest.raises(WorkerFinished), contextlib.suppress(Exception):
        LLM.load(str(write_model(tmp_path / "model.gpt")))
    assert calls == EXPECTED_CALLS


def test_the_command_of_a_worker_ends_with_code_0(
    calls: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model.gpt")
    capfd.readouterr()  # what transformers writes
    assert main(["generate", str(folder), "--prompt", "Hi"]) == 0
    assert calls == EXPECTED_CALLS
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import atexit
import os
import sys
sys.path.insert(0, sys.argv.pop())  # workers must find mygpt, too
from mygpt import LLM

with open("runs", "a") as file:
    print("once", file=file)
os.chdir("below")

workers = []
atexit.register(lambda: print([worker.returncode for worker in workers]))  # runs last
llm = LLM.load(sys.argv[1], devices=2, accelerator="cpu", strategy="tensor")
print("loaded", file=sys.stderr)
workers.extend(llm.loaded.model.bus.ranks.supervisor.children)
print(len(llm.generate_ids([1, 2, 3], max_new_tokens=2, temperature=0.0)))
"""


def test_a_script_runs_once_and_its_workers_end_with_code_0(small: Path, tmp_path: Path) -> None:
    """Without a guard of `__main__`: workers do not run it. Paths are those of rank 0, wherever it has gone to."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "model").symlink_to(small)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    run = subprocess.run(
        [sys.executable, "script.py", "./model", str(ROOT)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "2\n[0]\n", "loaded\n")
    assert (tmp_path / "runs").read_text() == "once\n"


def test_the_task_of_a_worker_is_not_left_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a token. Without a task, ranks run the same script again."""
    from lightning.fabric.strategies.launchers import subprocess_script

    command = subprocess_script._basic_subprocess_cmd
    with _own_children({"checkpoint": "x", "options": {"access_token": "hf_secret"}}):
        assert json.loads(os.environ["MYGPT_TASK"])["checkpoint"] == "x"
        assert not any("hf_secret" in word for word in subprocess_script._basic_subprocess_cmd())
    assert "MYGPT_TASK" not in os.environ
    assert subprocess_script._basic_subprocess_cmd is command
    with _own_children(None):
        assert subprocess_script._basic_subprocess_cmd is command

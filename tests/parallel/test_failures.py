"""However a rank ends before its time, all do within 10 seconds, and one line says which it was and why."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from mygpt.parallel.meeting import MeetingPoint
from tests.parallel.conftest import Start, free_port, group, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
AT_MOST_S = 10


def run_long(start: Start, folder: Path, *options: object):
    """A generation over three ranks, which would take minutes."""
    prompt = ["--prompt", "Tell a long story.", "--temperature", 0, "--max_new_tokens", 4000]
    return start("generate_tp", folder, "--devices", 3, "--accelerator", "cpu", *prompt, *options)


def ended(process, since: float) -> tuple[int, str]:
    """The exit code and standard error, once every process has ended."""
    _, error = process.communicate(timeout=60)
    wait_for(lambda: not group(process.pid))
    assert time.monotonic() - since < AT_MOST_S
    return process.returncode, error


@pytest.fixture(params=[pytest.param("starting", marks=pytest.mark.full), "generating"])
def running(request: pytest.FixtureRequest, start: Start, smollm2: Path):
    process = run_long(start, smollm2)
    if request.param == "starting":
        wait_for(lambda: len(group(process.pid)) == 3)
        time.sleep(1.0)
    else:
        assert process.stdout.read(10)
    return process


def test_a_killed_worker(running) -> None:
    since = time.monotonic()
    os.kill(group(running.pid)[-1], signal.SIGKILL)
    code, error = ended(running, since)
    assert code == 1
    assert error.startswith("error: rank 2 was killed by SIGKILL")
    assert error.count("\n") == 1


@pytest.mark.full
def test_a_killed_rank_0(running) -> None:
    since = time.monotonic()
    os.kill(running.pid, signal.SIGKILL)
    code, error = ended(running, since)
    assert code == -signal.SIGKILL
    assert error in ("", "error: rank 0 was killed; the other ranks were ended\n")


@pytest.mark.parametrize("whole_group", [pytest.param(False, marks=pytest.mark.full), True])
def test_ctrl_c(running, whole_group: bool) -> None:
    since = time.monotonic()
    (os.killpg if whole_group else os.kill)(running.pid, signal.SIGINT)
    assert ended(running, since) == (130, "")


@pytest.mark.full
def test_a_corrupt_file_is_told_once(start: Start, smollm2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(smollm2, tmp_path / "cut")
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)
    process = run_long(start, folder)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.startswith("error: ") and "truncated or corrupt" in error
    assert error.count("\n") == 1


@pytest.fixture
def other(smollm2: Path, tmp_path: Path) -> Path:
    """The model with a config.json that wants a head, which the weights lack: that shows after the ranks have met."""
    folder = tmp_path / "other"
    folder.mkdir()
    for file in smollm2.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


def test_a_worker_that_fails_alone_tells_why(
    start: Start, smollm2: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 2 is given another folder than rank 0."""
    hook = f"""
import os
if os.environ.get("LOCAL_RANK") == "2":
    os.environ["MYGPT_TASK"] = os.environ["MYGPT_TASK"].replace({str(smollm2)!r}, {str(other)!r})
"""
    (tmp_path / "sitecustomize.py").write_text(hook)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = run_long(start, smollm2)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.startswith("error: rank 2: ") and "the weights do not fit config.json" in error
    assert error.count("\n") == 1


@pytest.mark.full
def test_a_node_that_fails_alone(start: Start, smollm2: Path, other: Path) -> None:
    """Each of two nodes tells its own part."""
    port = free_port()
    options = ["--num_nodes", 2, "--devices", 1, "--accelerator", "cpu", "--prompt", "Hi"]
    nodes = [
        start(
            "generate",
            folder,
            *options,
            "--strategy",
            "fsdp",
            NODE_RANK=number,
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for number, folder in enumerate([smollm2, other])
    ]
    errors = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [1, 2]
    assert errors[0].startswith("error: rank 0 lost the connection to another rank")
    assert errors[1].startswith("error: rank 1: ") and "the weights do not fit config.json" in errors[1]
    assert [error.count("\n") for error in errors] == [1, 1]


IMPATIENT = """
import datetime, sys
from mygpt.__main__ import main
from mygpt.parallel import launch, meeting
meeting.NOTICE_S, launch._CONNECT_TIMEOUT = 0.5, datetime.timedelta(seconds={})
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("node", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_node_that_does_not_come(start: Start, small: Path, node: int) -> None:
    port = free_port()
    process = start(
        *("generate_tp", small, "--num_nodes", 2, "--devices", 1, "--accelerator", "cpu", "--prompt", "Hi"),
        launcher=[sys.executable, "-c", IMPATIENT.format(3)],
        NODE_RANK=node,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
    )
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    waiting, failed = error.splitlines()
    where = f"127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT)"
    assert waiting == f"waiting for node {1 - node} of 2 at {where}"
    rank = "" if node == 0 else "rank 1: "
    assert failed.startswith(
        f"error: {rank}node {1 - node} of 2 did not come to {where} within 3 s: start the"
    )


@pytest.mark.parametrize("first", [0, 1])
def test_a_node_that_comes_late_is_waited_for(start: Start, small: Path, first: int) -> None:
    """The one that is there says that it waits, and for which one; then both do their work."""
    port, nodes = free_port(), []
    for node in (first, 1 - first):
        process = start(
            *(
                "generate_tp",
                small,
                "--num_nodes",
                2,
                "--devices",
                1,
                "--accelerator",
                "cpu",
                "--prompt",
                "Hi",
            ),
            *("--max_new_tokens", 2, "--seed", 1),
            launcher=[sys.executable, "-c", IMPATIENT.format(60)],
            NODE_RANK=node,
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        nodes.append(process)
        if node == first:
            assert process.stderr.readline().startswith(f"waiting for node {1 - first} of 2 at 127.0.0.1:")
    errors = [process.communicate(timeout=60)[1] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], errors
    lines = errors[first].splitlines()  # rank 0's, which may have waited too where it came second
    if first == 1 and lines[0].startswith("waiting for node 1 of 2 at "):
        del lines[0]
    statistics, cut = lines
    assert "tokens/s" in statistics and cut.startswith("the answer was cut after 2 tokens")
    assert errors[1 - first] in (
        "",
        f"waiting for node {first} of 2 at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT)\n",
    )


def test_several_nodes_that_are_missing() -> None:
    assert MeetingPoint(4, 0, "10.0.0.1", 29500).missing == "the other 3 nodes"
    assert MeetingPoint(4, 2, "10.0.0.1", 29500).missing == "node 0 of 4"

"""Two processes that write the same thing at the same time: one result, whole."""

from pathlib import Path

import pytest

from tests.faults.conftest import LIMIT_S, REPO, Machine
from tests.faults.test_signals import SLOW

pytestmark = pytest.mark.full  # minutes


def test_two_conversions_to_one_folder(machine: Machine) -> None:
    """Whoever comes second is told, or finds the folder there."""
    processes = [machine.start("convert", machine.model, "out") for _ in range(3)]
    errors = [process.communicate(timeout=LIMIT_S)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2, 2]
    for process, error in zip(processes, errors, strict=True):
        if process.returncode:
            told = (
                "error: another process is writing out; wait until it has ended",
                "error: out exists; name a",
            )
            assert error.startswith(told) and error.count("\n") == 1
    assert sorted(path.name for path in (machine.folder / "out").iterdir()) == sorted(
        path.name for path in machine.model.iterdir()
    )
    assert not machine.leftovers()


def test_the_second_conversion_while_the_first_writes(machine: Machine) -> None:
    first = machine.start("convert", machine.model, "out", launcher=["-c", SLOW])
    assert first.stdout.readline() == "writing\n"
    second = machine.run("convert", machine.model, "out")
    assert second.returncode == 2
    assert second.stderr == (
        "error: another process is writing out; wait until it has ended, or name another folder\n"
    )
    assert (machine.folder / ".out.partial" / "0.safetensors").read_bytes() == b"half of it"
    first.kill()
    machine.ended(first)
    assert machine.run("convert", machine.model, "out").returncode == 0
    assert not machine.leftovers()


@pytest.mark.parametrize("target", [None, "checkpoints"])
def test_two_downloads_of_one_repository(machine: Machine, target: str | None) -> None:
    options = [] if target is None else ["--checkpoint_dir", target]
    processes = [machine.start("download", REPO, *options) for _ in range(3)]
    for process in processes:
        out, error = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, error
        for file in machine.model.iterdir():
            assert Path(machine.folder, out.strip(), file.name).read_bytes() == file.read_bytes()
    assert not list(machine.folder.rglob("*.incomplete"))


def test_a_download_waits_for_another_into_its_folder(machine: Machine) -> None:
    from filelock import FileLock

    folder = machine.folder / "checkpoints" / REPO / ".cache" / "huggingface"
    folder.mkdir(parents=True)
    with FileLock(folder / "mygpt.lock"):
        process = machine.start("download", REPO, "--checkpoint_dir", "checkpoints")
        assert process.stderr.readline().startswith(f"downloading {REPO} from ")
        told = f"waiting for another process, which downloads into checkpoints/{REPO}\n"
        assert process.stderr.readline() == told
    code, error = machine.ended(process)
    assert code == 0, error

"""A disk that is full: one line that names the folder, exit code 1, and no part of a file stays.

Files may not grow over a limit here, which every user can set; the errors come from where a full disk's would.
"""

from pathlib import Path

import pytest

from tests.faults.conftest import REPO, Machine

LIMIT = 100_000  # bytes; the model has 267,000


@pytest.mark.parametrize("options", [[], ["--dtype", "float16"], ["--quantize", "bnb.int8"]])
def test_convert(machine: Machine, options: list[str]) -> None:
    done = machine.run("convert", machine.model, "sub/out", *options, file_bytes=LIMIT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: cannot write sub/out (File too large): it takes 0.")
    assert done.stderr.endswith(" MB; free some space, or name a folder on another disk\n")
    assert not list((machine.folder / "sub").iterdir())
    assert machine.run("convert", machine.model, "sub/out", *options).returncode == 0


@pytest.mark.parametrize("target", [None, "checkpoints"])
@pytest.mark.parametrize("limit", [LIMIT, 100])
def test_download(machine: Machine, target: str | None, limit: int) -> None:
    """The next run, on a disk with room, goes on with what there is."""
    options = [] if target is None else ["--checkpoint_dir", target]
    done = machine.run("download", REPO, *options, file_bytes=limit)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: cannot store {REPO}: File too large" in done.stderr
    done = machine.run("download", REPO, *options)
    assert done.returncode == 0, done.stderr
    stored = Path(machine.folder, done.stdout.strip())
    for file in machine.model.iterdir():
        assert (stored / file.name).read_bytes() == file.read_bytes()
    assert not list(machine.folder.rglob("*.incomplete"))


def test_output(machine: Machine) -> None:
    """Standard output on a disk that is full."""
    with Path("/dev/full").open("w") as full:
        process = machine.start("generate", machine.model, "--prompt", "Hi", stdout=full.fileno())
        code, error = machine.ended(process)
    assert code == 1
    assert error.splitlines()[-1].startswith("error: ") and "No space left on device" in error
    assert "Traceback" not in error

"""A machine on which a user may write nothing: not HOME, not the caches, not the folder. Or may not read the model."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import LIMIT_S, REPO, Machine

pytestmark = pytest.mark.full  # minutes


@pytest.fixture
def closed(machine: Machine) -> Iterator[Machine]:
    """A model lies in `model`, and one in the Hugging Face cache."""
    shutil.copytree(machine.model, machine.folder / "model")
    assert machine.run("download", REPO).returncode == 0
    permit(machine.folder, 0o555, 0o444)
    yield machine
    permit(machine.folder, 0o755, 0o644)


def permit(folder: Path, folders: int, files: int) -> None:
    """Change the permissions of all that lies in a folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not Path(parent, name).is_symlink():
                Path(parent, name).chmod(files)
        Path(parent).chmod(folders)


@pytest.mark.parametrize("model", ["model", REPO])
def test_a_model_that_is_there_runs(closed: Machine, model: str) -> None:
    done = closed.run("generate", model, "--prompt", "Hi", "--max_new_tokens", 2, obeys=True)
    assert done.returncode == 0, done.stderr


def test_chat_says_that_it_remembers_nothing(closed: Machine) -> None:
    process = closed.start("chat", REPO, "--max_new_tokens", 2, obeys=True, stdin=subprocess.PIPE)
    out, error = process.communicate("Hi\n", timeout=LIMIT_S)
    assert process.returncode == 0, error
    assert out and "Traceback" not in error


def test_list(closed: Machine) -> None:
    done = closed.run("list", obeys=True)
    assert done.returncode == 0, done.stderr
    assert REPO in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["convert", "model", "out"],
            2,
            "error: cannot write to out (Permission denied); name another folder\n",
        ),
        (
            ["convert", "model", "sub/out"],
            2,
            "error: cannot write to sub/out (Permission denied); name another",
        ),
        (["rm", REPO, "--yes"], 1, "error: cannot remove "),
        (["rm", REPO, "--yes"], 1, "(Permission denied): check its permissions\n"),
        (["download", "owner/second"], 1, "error: cannot store owner/second: Permission denied "),
        (
            ["download", "owner/second", "--checkpoint_dir", "."],
            1,
            "error: cannot store owner/second: Permission ",
        ),
    ],
)
def test_what_must_write_says_so(closed: Machine, arguments: list[str], code: int, message: str) -> None:
    closed.hub.repos["owner/second"] = closed.hub.repos[REPO]
    done = closed.run(*arguments, obeys=True)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    files = sorted(path.name for path in closed.folder.iterdir())
    assert files == ["HF_HOME", "HOME", "MYGPT_CACHE", "TMPDIR", "XDG_STATE_HOME", "model"]


@pytest.mark.parametrize("target", [[], ["--checkpoint_dir", "checkpoints"]])
def test_a_download_into_a_folder_needs_no_cache(machine: Machine, target: list[str]) -> None:
    cache = machine.folder / "HF_HOME"
    cache.chmod(0o555)
    done = machine.run("download", REPO, *target, obeys=True)
    cache.chmod(0o755)
    assert done.returncode == (0 if target else 1), done.stderr


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_source_that_cannot_be_read(machine: Machine, name: str) -> None:
    model = shutil.copytree(machine.model, machine.folder / "model")
    (model / name).chmod(0)
    done = machine.run("convert", "model", "out", obeys=True)
    (model / name).chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "model" in done.stderr and name in done.stderr, done.stderr
    assert not (machine.folder / "out").exists() and not machine.leftovers()

"""Commands in processes of their own, as a shell starts them, on a machine of their own: caches, home and a Hub."""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fake_hub import FakeHub, Repo, serve
from tests.models import write_model
from tests.parallel.conftest import group, wait_for

LIMIT_S = 120
REPO = "owner/model"


class Machine:
    """A folder in which commands run and have their caches."""

    def __init__(self, folder: Path, model: Path, hub: FakeHub) -> None:
        self.folder, self.model, self.hub = folder, model, hub
        self.started: list[subprocess.Popen[str]] = []
        own = {name: folder / name for name in ("HOME", "HF_HOME", "MYGPT_CACHE", "XDG_STATE_HOME", "TMPDIR")}
        for path in own.values():
            path.mkdir(parents=True)
        taken = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "XDG_CACHE_HOME")
        self.environment = {name: value for name, value in os.environ.items() if name not in taken}
        self.environment |= {name: str(path) for name, path in own.items()}
        self.environment |= {"HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(
        self,
        *arguments: object,
        launcher: Sequence[str] = ("-m", "mygpt"),
        ignored: Sequence[signal.Signals] = (),
        file_bytes: int | None = None,
        obeys: bool = False,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command in a process group of its own.

        Args:
            arguments: of the command.
            launcher: what comes before them on Python's command line.
            ignored: signals that it ignores from the beginning.
            file_bytes: the size that its files can have, as if the disk were full then.
            obeys: whether the permissions of files bind it, also where the user is root.
            stdin: what it reads.
            stdout: where it writes.
        """

        def prepare() -> None:
            reset_signals()
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)
            if obeys and os.getuid() == 0:
                give_up_root()
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        process = subprocess.Popen(
            [sys.executable, *launcher, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            text=True,
            errors="replace",
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=prepare,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which is no traceback and at most one line of an error."""
        process = self.start(*arguments, **options)  # type: ignore[arg-type]
        out, error = process.communicate(timeout=LIMIT_S)
        assert "Traceback" not in error, error
        assert error.count("error: ") == (process.returncode in (1, 2)), error
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Its exit code and standard error, when no process of its group is left."""
        _, error = process.communicate(timeout=LIMIT_S)
        wait_for(lambda: not group(process.pid), LIMIT_S)
        return process.returncode, error

    def leftovers(self) -> list[Path]:
        """Parts of files and locks, but for what a download can go on with."""
        found = [path for end in ("partial", "lock") for path in self.folder.glob(f"**/.*.{end}")]
        return [*found, *self.folder.glob("**/.removed-*"), *(self.folder / "TMPDIR").iterdir()]


def give_up_root() -> None:
    """Root is bound by the permissions of files without these capabilities, which `exec` will not give back."""
    prctl, drop = ctypes.CDLL(None, use_errno=True).prctl, 24  # PR_CAPBSET_DROP
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if prctl(drop, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def reset_signals() -> None:
    """Undo what a shell's background job, or `nohup`, has ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def catches(process: subprocess.Popen[str], number: int) -> bool:
    """Whether a process has a handler for a signal, or has ended."""
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(scope="session")
def hub(tiny: Path) -> Iterator[FakeHub]:
    """A Hub with that model, which sends it slowly."""
    with serve() as fake:
        fake.repos[REPO] = Repo({file.name: file.read_bytes() for file in tiny.iterdir()})
        fake.pause_s = 0.05
        yield fake


@pytest.fixture
def machine(tmp_path: Path, tiny: Path, hub: FakeHub) -> Iterator[Machine]:
    machine = Machine(tmp_path, tiny, hub)
    yield machine
    left = [pid for process in machine.started for pid in group(process.pid)]
    for process in machine.started:
        if group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    shutil.rmtree(tmp_path, ignore_errors=True)
    assert not left, "processes were left behind"

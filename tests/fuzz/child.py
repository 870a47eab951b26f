"""One case in a process of its own: without privileges, with limits, in its own folder."""

import atexit
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from tests.fuzz.case import CANARY, Case, give_to, remove, write_files
from tests.fuzz.rights import NOBODY, become, reaches_python

Call = Callable[[list[str]], int]
_GRACE_S = 5.0  # in which processes of an ended case may end too
_KEPT = 2 * 2**20  # bytes of an output that are read


@dataclass(frozen=True)
class Limits:
    """What one case may use. Generous, since other work may share the machine."""

    wall_s: float = 120
    cpu_s: int = 40
    memory_bytes: int = 4 * 2**30  # of address space, beyond the server's own
    file_bytes: int = 256 * 2**20
    files: int = 256


@dataclass(frozen=True)
class Outcome:
    """How a case ended. `code` is negative for a signal, as subprocess has it."""

    code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool
    orphans: int
    outside: str  # what was made or changed outside of the case's folder
    seconds: float
    cpu_seconds: float


class Place:
    """The folder in which a server runs its cases, one after the other.

    `case/run` is the working folder, `case/home` and `case/tmp` what they are called; all are made anew for each case.
    `outside` lies beside them and must stay as it is. Where root runs the server, `user` runs the cases. `reads_all`:
    he may read all files, but for cases with unreadable ones, since Python lies where only root comes.
    """

    def __init__(self, root: Path) -> None:
        """`root` is an existing folder."""
        self.root = root
        self.case, self.outside, self.io = root / "case", root / "outside", root / "io"
        self.run, self.home, self.tmp = (self.case / name for name in ("run", "home", "tmp"))
        self.user = NOBODY if os.geteuid() == 0 else None
        self.reads_all = self.user is not None and not reaches_python(self.user)

    def environment(self) -> dict[str, str]:
        """The variables of every case: its folders, no network, one thread."""
        closed = "http://127.0.0.1:9"  # the port of "discard", where nothing listens
        return {
            **{"HOME": str(self.home), "TMPDIR": str(self.tmp), "XDG_CACHE_HOME": str(self.home / ".cache")},
            **{"HF_ENDPOINT": closed, "HF_HUB_OFFLINE": "1", "PIP_INDEX_URL": closed, "PIP_NO_INDEX": "1"},
            **{"CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"},
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
        }

    def prepare(self, case: Case) -> None:
        """Make the folders anew, with the case's files."""
        for folder in (self.case, self.outside, self.io):
            if folder.is_symlink() or folder.exists():
                remove(folder)
        for folder in (self.run, self.home, self.tmp, self.outside, self.io):
            folder.mkdir(parents=True)
        (self.outside / "canary").write_bytes(CANARY)
        (self.io / "stdin").write_bytes(case.stdin)
        write_files(case, self.run, self.outside / "canary")
        if self.user is not None:
            self.root.chmod(0o755)
            for folder in (self.case, self.outside):
                give_to(folder, self.user)

    def changed_outside(self, known: set[str]) -> str:
        """What lies outside of the case's folder and did not before; "" for nothing."""
        here = sorted(path.name for path in self.root.iterdir())
        there = sorted(path.name for path in self.outside.iterdir())
        canary = self.outside / "canary"
        if there != ["canary"] or canary.is_symlink() or canary.read_bytes() != CANARY:
            return f"outside/ holds {', '.join(there)}"
        if here != ["case", "io", "outside"]:
            return f"beside the case lie {', '.join(here)}"
        return ", ".join(sorted(self.owned() - known))

    def owned(self) -> set[str]:
        """Files of the cases' user where every user may write; they cannot be told from others' without one."""
        found = set()
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            if self.user is not None and Path(folder).is_dir():
                found |= {entry.path for entry in os.scandir(folder) if _owner(entry) == self.user}
        return found


def _owner(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat(follow_symlinks=False).st_uid
    except FileNotFoundError:
        return None


def run_case(case: Case, place: Place, call: Call, limits: Limits) -> Outcome:
    """Run `call` with the case's arguments in a new process. Its folders stay as they are afterwards."""
    place.prepare(case)
    known = place.owned()
    sys.stdout.flush()
    start = time.monotonic()
    process = os.fork()
    if not process:
        _child(case, place, call, limits)
    try:
        timed_out = not _ends(process, limits.wall_s)
    finally:
        _kill_group(process)
    _, status, used = os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    orphans = _end_orphans()
    stdout, stderr = (_head(place.io / name) for name in ("stdout", "stderr"))
    return Outcome(
        code,
        stdout,
        stderr,
        timed_out,
        orphans,
        place.changed_outside(known),
        seconds,
        used.ru_utime + used.ru_stime,
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_KEPT)


def _ends(process: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(process)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _kill_group(process: int) -> None:
    """The case's session, while its first process is not reaped, so that the number is still its own."""
    with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        ended = file.read().rpartition(")")[2].split()[0] == "Z"
    if not ended:
        os.killpg(process, signal.SIGKILL)


def _end_orphans() -> int:
    """Wait a little for the processes that a case left, then kill them; how many were killed."""
    until = time.monotonic() + _GRACE_S
    killed: set[int] = set()
    while True:
        try:
            reaped = os.waitpid(-1, os.WNOHANG)[0]
        except ChildProcessError:
            return len(killed)
        if not reaped:
            if time.monotonic() > until:
                for process in _children():
                    killed.add(process)
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[1] == str(os.getpid()) and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _child(case: Case, place: Place, call: Call, limits: Limits) -> NoReturn:
    """In the new process: never returns."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, (name, flags) in enumerate({"stdin": 0, "stdout": 1, "stderr": 1}.items()):
            mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND if flags else os.O_RDONLY
            opened = os.open(place.io / name, mode, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        os.chdir(place.run)
        _set_limits(limits)
        if place.user is not None:
            become(place.user, reads_all=place.reads_all and not case.unreadable)
        _open_streams()
        tempfile.tempdir = None
        code = _as_python_does(case.arguments, call)
    finally:
        os._exit(code)


def _set_limits(limits: Limits) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for name, value, hard in (
        (resource.RLIMIT_AS, used + limits.memory_bytes, 0),
        (resource.RLIMIT_CPU, limits.cpu_s, 5),  # SIGXCPU at the first limit, SIGKILL at the second
        (resource.RLIMIT_FSIZE, limits.file_bytes, 0),
        (resource.RLIMIT_NOFILE, limits.files, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(name, (value, value + hard))


def _open_streams() -> None:
    """As Python opens them in a UTF-8 locale."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="strict", closefd=False)  # noqa: SIM115
    for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        binary = open(number, "wb", closefd=False)  # noqa: SIM115
        stream = TextIOWrapper(binary, "utf-8", errors, line_buffering=name == "stderr", write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _as_python_does(arguments: list[str], call: Call) -> int:
    """The exit code of a program whose main function is `call`."""
    try:
        code = call(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def server_environment(place: Place, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the server itself, which its cases inherit: nothing of the user's but what finds programs."""
    kept = {name: environment[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in environment}
    kernels = environment.get("MYGPT_KERNELS", str(Path("~/.cache/mygpt/kernels").expanduser()))
    return {**kept, "MYGPT_KERNELS": kernels, **place.environment()}

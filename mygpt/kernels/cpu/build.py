"""Compiles the kernels of a level at their first use, and finds them compiled ever after.

A library is named by all that it depends on (sources, flags, processor and torch's version) and by its checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from mygpt.kernels.cpu import isa
from mygpt.kernels.cpu.cache import LibraryCache
from mygpt.messages import tell
from mygpt.paths import cache_folder, code_folders, find_program, private_folder

_SOURCES = Path(__file__).absolute().parent
_FLAGS = ["-O3", "-fopenmp", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-psabi"]
_HELD = {  # of the levels below a machine's best
    "avx2": ["-march=haswell", "-mtune=native"],
    "avx512": ["-march=native", "-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8"],
}
_ROOM = 16 << 20  # bytes: more than a compiler's files take
_TIMEOUT_S = 120
_log = logging.getLogger(__name__)
_Loaded = TypeVar("_Loaded")


class NoKernelsError(Exception):
    """There are no kernels; the message is the reason in a few words."""


def build(level: str, load: Callable[[Path], _Loaded]) -> _Loaded:
    """What `load` makes of the library of a level, which is compiled where it is not yet, or cannot be loaded.

    Raises:
        NoKernelsError: it cannot be had.
    """
    if sys.platform != "linux":
        raise NoKernelsError("not Linux")
    command = [
        *_compiler(),
        "-Wl,--as-needed",
        *_FLAGS,
        *(["-march=native"] if level in ("native", *isa.machine_levels()[-1:]) else _HELD[level]),
        *shlex.split(os.environ.get("MYGPT_KERNEL_FLAGS", "")),  # for tests, as -fsanitize=address
    ]
    openmp = _torch_openmp()
    key = _key(command, openmp)
    try:
        named = os.environ.get("MYGPT_KERNELS")
        folders = code_folders(Path(named).expanduser() if named else cache_folder() / "kernels", "kernels")
        for folder in folders:
            with contextlib.suppress(OSError), LibraryCache.open(folder) as cache:
                if loaded := _load_kept(cache, key, load):
                    return loaded
        return _build(command, openmp, key, folders, load)
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        raise NoKernelsError(str(error)) from error


def _load_kept(cache: LibraryCache, key: str, load: Callable[[Path], _Loaded]) -> _Loaded | None:
    path = cache.find(key)
    if path is None:
        return None
    try:
        return load(path)
    except (OSError, AttributeError):  # another glibc: made anew
        path.unlink()
        return None


def _build(
    command: Sequence[str], openmp: Path, key: str, folders: Sequence[Path], load: Callable[[Path], _Loaded]
) -> _Loaded:
    """Compile in the first folder that takes the library."""
    _say("compiling mygpt's kernels for this processor, once")
    reasons: list[OSError] = []
    for folder in folders:
        try:
            with LibraryCache.open(private_folder(folder)) as cache, cache.locked():
                loaded = _load_kept(cache, key, load)  # another process may have made it meanwhile
                loaded = loaded or load(_compile(command, openmp, key, cache))
        except OSError as error:
            reasons.append(error)
        else:
            if reasons:
                _say(f"they are kept in {folder}: {folders[0]} cannot be used ({_why(reasons[0])})")
            return loaded
    _say(
        f"there are none, so models run slower: {folders[0]} cannot be used ({_why(reasons[0])}); set MYGPT_KERNELS"
    )
    raise reasons[0]


def _say(line: str) -> None:
    if sys.stderr.isatty():  # where a program reads it, an error is the only line
        tell(line)


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _torch_openmp() -> Path:
    """The OpenMP that torch has loaded: threads of a second one would spin against the first's."""
    package = Path(torch.__file__).parent
    found = [*package.glob("lib/libgomp*.so*"), *package.parent.glob("torch.libs/libgomp*.so*")]
    if not found:
        raise NoKernelsError("torch brings no libgomp")
    return found[0]


def _compiler() -> list[str]:
    """$CC where it is a command, else the system's."""
    for command in (os.environ.get("CC", ""), "cc", "gcc"):
        with contextlib.suppress(ValueError):  # quotes that do not close
            name, *options = shlex.split(command) or [""]
            if found := find_program(name):
                return [found, *options]
    raise NoKernelsError("no C compiler")


def _key(command: Sequence[str], openmp: Path) -> str:
    processor = isa.processor() or [platform.processor()]
    parts = [*processor, platform.machine(), *command, str(openmp), torch.__version__]
    contents = [path.read_bytes() for path in sorted(_SOURCES.glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join([*map(os.fsencode, parts), *contents])).hexdigest()[:16]


def _compile(command: Sequence[str], openmp: Path, key: str, cache: LibraryCache) -> Path:
    """A few seconds. The compiler runs in a new folder, so an empty entry of CPATH or PATH is no folder of others."""
    with _tidied_up(), tempfile.TemporaryDirectory(dir=cache.path, ignore_cleanup_errors=True) as name:
        scratch, made = Path(name), "kernels.so"
        with (scratch / made).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _ROOM)  # a full disk shows at once
        (scratch / made).unlink()
        sources = map(str, sorted(_SOURCES.glob("*.c")))
        # the library by its path, not -lgomp: it may bear another name; all its symbols must be found
        _run([*command, *sources, "-o", made, str(openmp), "-lm", "-Wl,-z,defs"], scratch)
        return cache.keep(scratch / made, key)


def _run(command: Sequence[str], scratch: Path) -> None:
    with subprocess.Popen(
        command,
        cwd=scratch,
        env={**os.environ, "TMPDIR": "."},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a group, to end the compiler's own children too
    ) as process:
        try:
            _, errors = process.communicate(timeout=_TIMEOUT_S)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        name = Path(command[0]).name
        _log.debug("%s: %s", name, errors.strip()[-500:])
        raise NoKernelsError(f"{name} failed")


@contextmanager
def _tidied_up() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this process only when what is in here has tidied up."""
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    ending = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if main and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in ending:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])

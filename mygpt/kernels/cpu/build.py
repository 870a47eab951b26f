"""Compiles the kernels of a level at their first use, and finds them compiled ever after.

A library lies in the folder $MYGPT_KERNELS, or in `kernels` under mygpt's cache folder. It is named by all that it
depends on: sources, flags, processor and torch's version.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from mygpt.kernels.cpu import isa
from mygpt.messages import tell
from mygpt.paths import cache_folder

_SOURCES = Path(__file__).parent
_FLAGS = ["-O3", "-fopenmp", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-psabi"]
_HELD = {  # of the levels below a machine's best
    "avx2": ["-march=haswell", "-mtune=native"],
    "avx512": ["-march=native", "-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8"],
}
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
    compiler, openmp = _compiler(), _torch_openmp()
    flags = [
        *_FLAGS,
        *(["-march=native"] if level in ("native", *isa.machine_levels()[-1:]) else _HELD[level]),
    ]
    try:
        path = _folder() / f"{_key(compiler, flags, openmp)}.so"
        if path.is_file():
            try:
                return load(path)
            except (OSError, AttributeError):
                path.unlink(missing_ok=True)  # half a disk, another glibc: made anew
        _compile(compiler, flags, openmp, path)
        return load(path)
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        raise NoKernelsError(str(error)) from error


def _torch_openmp() -> Path:
    """The OpenMP that torch has loaded: threads of a second one would spin against the first's."""
    package = Path(torch.__file__).parent
    found = [*package.glob("lib/libgomp*.so*"), *package.parent.glob("torch.libs/libgomp*.so*")]
    if not found:
        raise NoKernelsError("torch brings no libgomp")
    return found[0]


def _compiler() -> list[str]:
    for command in (os.environ.get("CC"), "cc", "gcc"):
        words = shlex.split(command) if command else []
        if words and shutil.which(words[0]):
            return words
    raise NoKernelsError("no C compiler")


def _folder() -> Path:
    if own := os.environ.get("MYGPT_KERNELS"):
        return Path(own).expanduser()
    return cache_folder() / "kernels"


def _key(compiler: list[str], flags: list[str], openmp: Path) -> str:
    processor = isa.processor() or [platform.processor()]
    parts = [*processor, platform.machine(), *flags, *compiler, str(openmp), torch.__version__]
    contents = [path.read_bytes() for path in sorted(_SOURCES.glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join([*map(str.encode, parts), *contents])).hexdigest()[:16]


def _compile(compiler: list[str], flags: list[str], openmp: Path, path: Path) -> None:
    """A few seconds. Processes that do it at the same time each rename a whole file into place."""
    if sys.stderr.isatty():  # where a program reads it, an error is the only line
        tell("compiling mygpt's kernels for this processor, once")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch, path.name)
        sources = sorted(_SOURCES.glob("*.c"))
        # the library by its path, not -lgomp: it may bear another name; all its symbols must be found
        command = [*compiler, "-Wl,--as-needed", *flags, *sources, "-o", made, openmp, "-lm", "-Wl,-z,defs"]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
        if done.returncode:
            _log.debug("%s: %s", compiler[0], done.stderr.strip()[-500:])
            raise NoKernelsError(f"{compiler[0]} failed")
        made.rename(path)

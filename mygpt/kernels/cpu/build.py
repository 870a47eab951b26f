"""Compiles the kernels at their first use, and finds them compiled ever after.

The library lies in $MYGPT_KERNELS, or in `kernels` under mygpt's cache folder, named by all that it depends on:
sources, flags, processor and torch's version. Whatever goes wrong means no kernels, never an error.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from mygpt.paths import cache_folder

_SOURCES = Path(__file__).parent
_FLAGS = ["-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-psabi"]
_log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they are turned off (MYGPT_KERNELS=0) or cannot be had."""
    if os.environ.get("MYGPT_KERNELS") == "0" or sys.platform != "linux":
        return None
    try:
        return _load()
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _log.debug("no kernels: %s", error)
        return None


def _load() -> ctypes.CDLL:
    openmp = _torch_openmp()
    compiler = _compiler()
    path = _folder() / f"{_key(compiler, openmp)}.so"
    if path.is_file():
        try:
            return _checked(path)
        except (OSError, AttributeError):
            path.unlink(missing_ok=True)  # half a disk, another glibc: made anew
    _compile(compiler, openmp, path)
    return _checked(path)


def _torch_openmp() -> Path:
    """The OpenMP that torch has loaded: threads of a second one would spin against the first's."""
    package = Path(torch.__file__).parent
    places = [*package.glob("lib/libgomp*.so*"), *package.parent.glob("torch.libs/libgomp*.so*")]
    if not places:
        raise OSError("torch brings no libgomp")
    return places[0]


def _compiler() -> list[str]:
    for command in (os.environ.get("CC"), "cc", "gcc"):
        words = shlex.split(command) if command else []
        if words and shutil.which(words[0]):
            return words
    raise OSError("there is no C compiler")


def _folder() -> Path:
    if own := os.environ.get("MYGPT_KERNELS"):
        return Path(own).expanduser()
    return cache_folder() / "kernels"


def _key(compiler: list[str], openmp: Path) -> str:
    info = Path("/proc/cpuinfo")
    names = ("model name", "flags", "Features", "CPU part")  # of x86 and of ARM
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    processor = [line for line in lines if line.startswith(names)] or [platform.processor()]
    parts = [*processor, platform.machine(), *_FLAGS, *compiler, str(openmp), torch.__version__]
    contents = [path.read_bytes() for path in sorted(_SOURCES.glob("*.[ch]"))]
    return hashlib.sha256(b"\0".join([*map(str.encode, parts), *contents])).hexdigest()[:16]


def _compile(compiler: list[str], openmp: Path, path: Path) -> None:
    """A few seconds. Processes that do it at the same time each rename a whole file into place."""
    if sys.stderr.isatty():  # where a program reads it, an error is the only line
        print("compiling mygpt's kernels for this processor, once", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch, path.name)
        sources = sorted(_SOURCES.glob("*.c"))
        # the library by its path, not -lgomp: it may bear another name; all its symbols must be found
        command = [*compiler, "-Wl,--as-needed", *_FLAGS, *sources, "-o", made, openmp, "-lm", "-Wl,-z,defs"]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{compiler[0]} failed: {done.stderr.strip()[-500:]}")
        made.rename(path)


def _checked(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in (
        "mygpt_norm",
        "mygpt_linear",
        "mygpt_gated",
        "mygpt_attention",
        "mygpt_attend_many",
        "mygpt_block",
        "mygpt_tiles",
        "mygpt_gate",
        "mygpt_team_sum",
        "mygpt_team_gather",
    ):
        getattr(library, name).restype = None
    return library

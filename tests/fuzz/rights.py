"""Gives up a process's rights: root becomes nobody."""

import ctypes
import os
import struct
import subprocess
import sys

NOBODY = 65534
_libc = ctypes.CDLL(None, use_errno=True)
# Of prctl(2) and capset(2).
_DUMPABLE, _KEEP, _SUBREAPER, _AMBIENT, _RAISE = 4, 8, 36, 47, 2
_VERSION_3, _READ_SEARCH = 0x20080522, 2


def reaches_python(user: int) -> bool:
    """Whether a user can run this Python and import mygpt; not where they lie under `/root`, say."""
    command = [sys.executable, "-c", "import mygpt"]
    try:
        done = subprocess.run(
            command, user=user, group=user, extra_groups=[], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def become(user: int, *, reads_all: bool) -> None:
    """Become a user for good. `reads_all` keeps one right, in programs that it starts too: to read every file."""
    os.setgroups([])
    os.setgid(user)
    _prctl(_KEEP, int(reads_all))
    os.setuid(user)
    _prctl(_DUMPABLE, 1)  # or /proc/self belongs to root
    if reads_all:
        bit = 1 << _READ_SEARCH
        kept = struct.pack("6I", bit, bit, bit, 0, 0, 0)  # effective, permitted, inherited
        if _libc.capset(struct.pack("Ii", _VERSION_3, 0), kept):
            raise OSError(ctypes.get_errno(), "capset")
        _prctl(_AMBIENT, _RAISE, _READ_SEARCH)


def adopt_orphans() -> None:
    """Become the parent of processes whose parent has ended, so that they are noticed."""
    _prctl(_SUBREAPER, 1)


def _prctl(option: int, value: int, more: int = 0) -> None:
    if _libc.prctl(option, value, more, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")

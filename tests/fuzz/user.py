"""Cases run as a user without rights, who may start Python."""

import ctypes
import functools
import os
import sys

NOBODY = 65534
_DUMPABLE, _KEEP_CAPABILITIES, _AMBIENT, _RAISE = 4, 8, 47, 2  # of prctl(2)
_VERSION_3 = 0x20080522  # of capset(2)
_READ_ALL = 2  # CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def become(user: int) -> None:
    """Give up root's rights, for good. Children may still read Python's folder, where only root can."""
    read_all = not starts_python(user)
    os.setgroups([])
    os.setgid(user)
    prctl(_KEEP_CAPABILITIES, int(read_all))
    os.setuid(user)
    if read_all:
        bit = 1 << _READ_ALL
        sets = (_Sets * 2)(_Sets(bit, bit, bit), _Sets(0, 0, 0))
        ctypes.CDLL(None).capset(ctypes.byref(_Header(_VERSION_3, 0)), sets)
        prctl(_AMBIENT, _RAISE, _READ_ALL)
    prctl(_DUMPABLE, 1)  # or /proc/self belongs to root


@functools.cache
def starts_python(user: int) -> bool:
    """Whether a user can start this Python; it may lie in root's home folder."""
    process = os.fork()
    if not process:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        os._exit(not os.access(sys.executable, os.X_OK))
    return os.waitpid(process, 0)[1] == 0


def prctl(option: int, *values: int) -> None:
    """prctl(2)."""
    ctypes.CDLL(None).prctl(option, *values, *[0] * (4 - len(values)))

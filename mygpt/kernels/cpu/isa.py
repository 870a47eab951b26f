"""How much of the CPU the kernels may use: MYGPT_ISA holds them to a level, by default it is the machine's best.

Levels, each with the ones before it: `avx2` (with FMA), `avx512` (whatever of AVX-512 the machine has: VNNI, BF16),
`amx` (the matrix unit). `none` is no kernels at all. `native` stands for a machine with none of the levels.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from mygpt.errors import InputError

LEVELS = ("avx2", "avx512", "amx")
# What /proc/cpuinfo calls them, and x86-64-v3 and -v4.
_CPU_FLAGS = {
    "avx2": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"},
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "amx": {"amx_tile", "amx_bf16"},
}
# What torch and its oneDNN read when they first compute something.
_TORCH_VARIABLES = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"},
}


def hold_torch() -> None:
    """Hold torch's own products to MYGPT_ISA too, where its variables are not set. Before torch computes anything."""
    for name, value in _TORCH_VARIABLES.get(os.environ.get("MYGPT_ISA", ""), {}).items():
        os.environ.setdefault(name, value)


@functools.cache
def level() -> str:
    """One of LEVELS, `none`, or `native`.

    Raises:
        InputError: MYGPT_ISA is none of the machine's levels.
    """
    levels = machine_levels() or ["native"]
    wanted = os.environ.get("MYGPT_ISA") or levels[-1]
    if wanted not in (*levels, "none"):
        raise InputError(
            f"MYGPT_ISA={wanted} is not a level of this machine; it has {', '.join([*levels, 'none'])}"
        )
    return wanted


def allows(wanted: str, held: str | None = None) -> bool:
    """Whether what torch or bitsandbytes have for one of LEVELS counts: `held` (MYGPT_ISA) is not below it."""
    held = held or level()
    return held not in LEVELS or LEVELS.index(wanted) <= LEVELS.index(held)


@functools.cache
def machine_levels() -> list[str]:
    """Those of LEVELS that this machine has, the best last."""
    flags: set[str] = set()
    for line in processor():
        if line.startswith("flags"):
            flags.update(line.split())
    count = 0
    while count < len(LEVELS) and _CPU_FLAGS[LEVELS[count]] <= flags:
        count += 1
    return list(LEVELS[:count])


@functools.cache
def processor() -> list[str]:
    """What Linux says of the processor, as far as compiled code depends on it: of x86, and of ARM."""
    info = Path("/proc/cpuinfo")
    names = ("model name", "flags", "Features", "CPU part")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    return [line for line in lines if line.startswith(names)]

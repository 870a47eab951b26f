"""What the system says of itself: CPU, memory, limits of a container, NVIDIA's driver. Uses no torch."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mygpt.paths import find_program

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_SMI_FIELDS = ("name", "memory.total", "compute_cap", "driver_version")


def system() -> str:
    """The operating system, its version and the C library."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform != "linux":
        return platform.platform()
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = "Linux"
    return f"{name}, kernel {platform.release()}, {' '.join(platform.libc_ver())}"


def cpu_name() -> str:
    """Where Linux does not say it."""
    if sys.platform != "darwin":
        return platform.processor() or "unknown"
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, timeout=3, check=True).stdout.strip()


def usable_cores() -> int:
    """The logical CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def container_cores() -> float | None:
    """The CPU time that a container allows, in cores; None where there is no limit."""
    quotas = [words.split() for words in _limits("cpu.max")]
    quotas.append([_v1("cpu/cpu.cfs_quota_us"), _v1("cpu/cpu.cfs_period_us")])
    cores = [
        int(quota[0]) / int(quota[1])
        for quota in quotas
        if len(quota) == 2 and all(map(str.isdecimal, quota))
    ]
    return min(cores, default=None)


def total_memory() -> int:
    """The memory of the machine, in bytes."""
    if sys.platform == "win32":
        raise OSError("not known on Windows")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def container_memory() -> int | None:
    """The memory that a container allows, in bytes; None where there is no limit."""
    limits = [
        int(word)
        for word in (*_limits("memory.max"), _v1("memory/memory.limit_in_bytes"))
        if word.isdecimal()
    ]
    limit = min(limits, default=None)
    return None if limit is None or limit >= total_memory() else limit


def _limits(name: str) -> list[str]:
    """A file of this process's control groups (v2), from its own up to the root."""
    lines = _OWN_CGROUP.read_text().splitlines() if _OWN_CGROUP.is_file() else []
    own = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
    folders = [
        folder
        for folder in (_CGROUPS / own, *(_CGROUPS / own).parents)
        if _CGROUPS in (folder, *folder.parents)
    ]
    return [(folder / name).read_text().strip() for folder in folders if (folder / name).is_file()]


def _v1(name: str) -> str:
    path = _CGROUPS / name
    return path.read_text().strip() if path.is_file() else ""


def nvidia() -> list[dict[str, Any]]:
    """The NVIDIA GPUs that the driver sees, whatever torch can do with them; [] where there is no driver."""
    smi = find_program("nvidia-smi")
    if smi is not None:
        command = [smi, f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3, check=False)
        rows = [re.split(r", *", line.strip()) for line in done.stdout.splitlines()]
        if done.returncode == 0 and rows:
            return [_gpu(*row) for row in rows if len(row) == len(_SMI_FIELDS)]
    version = Path("/proc/driver/nvidia/version")
    if not version.is_file():
        return []
    number = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", version.read_text())
    return [{"name": "NVIDIA GPU", "driver": number[0] if number else "unknown"}]


def _gpu(name: str, mib: str, capability: str, driver: str) -> dict[str, Any]:
    memory = int(mib) * 2**20 if mib.isdecimal() else None
    return {"name": name, "total_bytes": memory, "compute_capability": capability, "driver": driver}

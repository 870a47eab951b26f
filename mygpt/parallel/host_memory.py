"""The memory that this machine has free, and a container's limit of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def free_host_bytes(root: Path = ROOT) -> int | None:
    """The memory that programs can still take without swapping, on Linux; None on other systems.

    Files in the page cache count as free: the system drops them. A control group, as of a container, may leave less
    than the machine has. `root` is where `/proc` and `/sys` are looked for.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else min([int(kib) * 1024, *_left_by_groups(root)])


def _left_by_groups(root: Path) -> Iterator[int]:
    """What the limit of each control group that this process is in leaves (cgroups v2, and v1's memory controller)."""
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                names = "memory.max", "memory.current", ""
                folder = root / "sys/fs/cgroup"
            elif "memory" in controllers.split(","):
                names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
                folder = root / "sys/fs/cgroup/memory"
            else:
                continue
            # A container may see its own group as the root, whatever path /proc names.
            inner = PurePosixPath(path).relative_to("/")
            for group in (inner, *inner.parents):
                with suppress(OSError, ValueError):  # no such group here, or "max": no limit
                    yield _left(folder / group, *names)


def _left(group: Path, limit: str, usage: str, prefix: str) -> int:
    numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    files = sum(int(numbers[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
    most, taken = (int((group / name).read_text()) for name in (limit, usage))
    return max(0, most - taken + files)

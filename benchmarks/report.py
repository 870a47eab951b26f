"""What every benchmark ends with: its results, and what they were measured on, as one JSON line.

Imports nothing heavy: the programs that start others must not share in what those measure.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def print_report(benchmark: str, results: Mapping[str, Any]) -> None:
    """Print the last line of standard output."""
    print(json.dumps({"benchmark": benchmark, **results, **environment()}), flush=True)


def environment() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    return {
        "machine": {"cpu": cpu_model(), "cores": cores()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("torch", "mygpt")}},
        "commit": commit(),
    }


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str | None:
    """The commit that this checkout is at, with `-dirty` where tracked files differ from it."""
    # no locks: a benchmark must not write to the repository, nor wait for whoever does
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:  # no git
        return None
    return done.stdout.strip() or None

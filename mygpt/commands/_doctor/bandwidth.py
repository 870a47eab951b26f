"""The bandwidth of memory, which bounds the tokens that a device decodes in a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_COLUMNS = 4096
_SECONDS = 0.25


def cpu_bandwidth(cores: int, free_bytes: int | None) -> float:
    """GB/s that the CPU reads weights with: of a float32 matrix times a vector, which a step of decoding does.

    Args:
        cores: CPUs with many of them have large caches, so more is read there.
        free_bytes: free memory, None where it is not known.

    Raises:
        MemoryError: too little.
    """
    size = min(2**30, max(2**28, cores * 2**25))
    if free_bytes is not None and free_bytes < 4 * size:
        raise MemoryError("too little free memory to measure")
    matrix = torch.ones(size // 4 // _COLUMNS, _COLUMNS)
    vector = torch.ones(_COLUMNS)
    return size / _best(lambda: torch.mv(matrix, vector)) / 1e9


def gpu_bandwidth(device: torch.device) -> float:
    """GB/s that a GPU copies within its memory, read and written bytes together."""
    source = torch.ones(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(4):
            target.copy_(source)
        torch.cuda.synchronize(device)

    return 2 * 4 * source.nbytes / _best(copy) / 1e9


def _best(run: Callable[[], object]) -> float:
    """The seconds of the fastest run, of those that a quarter of a second has room for."""
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)

"""Sums in shared memory are torch's, to the bit on every rank; a rank that ended is told, not waited for."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from mygpt import kernels
from mygpt.kernels.cpu import isa, library
from mygpt.kernels.cpu.shm import _CAPACITY, _LINE, _PROCESS

LEVELS = [level for level in isa.machine_levels() or ["native"] if library.load(level)[0] is not None]


@pytest.fixture(params=LEVELS, autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa, "level", lambda: request.param)


@pytest.fixture
def file() -> Iterator[int]:
    file = os.memfd_create("test")
    os.ftruncate(file, kernels.SharedMemoryGroup.nbytes(3))
    yield file
    os.close(file)


def together(
    file: int, work: Callable[[int, kernels.SharedMemoryGroup], Tensor | None]
) -> list[Tensor | None]:
    """What `work` gives on each of three ranks, which are threads here: their groups know no difference."""
    groups = [kernels.SharedMemoryGroup(rank, 3, file) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(work, range(3), groups))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sums(file: int, dtype: torch.dtype) -> None:
    for shape in [
        (1,),
        (3, 7),
        (1, 16),
        (5, 1, 100),
        (2, _CAPACITY // 4 + 5),
    ]:  # the last needs several meetings
        parts = [torch.randn(2 * shape[0], *shape[1:], generator=torch.Generator().manual_seed(rank)).to(dtype)[::2]
                 for rank in range(3)]  # not contiguous  # fmt: skip
        sums = together(file, lambda rank, group: group.all_reduce(group.all_reduce(parts[rank])))  # noqa: B023
        once = torch.stack(parts).float().sum(0).to(dtype)
        whole = torch.stack([once] * 3).float().sum(0).to(dtype)
        for total in sums:
            torch.testing.assert_close(total, whole, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
            assert torch.equal(total, sums[0])
        os.ftruncate(file, 0)
        os.ftruncate(file, kernels.SharedMemoryGroup.nbytes(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gathering(file: int, dtype: torch.dtype) -> None:
    parts = [torch.randn(2, _CAPACITY // 4 + 3).to(dtype) for _ in range(3)]
    first, *others = together(file, lambda rank, group: group.gather(parts[rank]))
    assert torch.equal(first, torch.stack(parts))
    assert others == [None, None]


def test_a_rank_that_ended_is_told(file: int) -> None:
    group, _ = kernels.SharedMemoryGroup(0, 3, file), kernels.SharedMemoryGroup(1, 3, file)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = _LINE + _PROCESS
    group.memory[process : process + 8] = ended.pid.to_bytes(8, "little")
    with pytest.raises(kernels.LostRankError, match="rank 1"):
        group.all_reduce(torch.ones(4))

"""Kernels of every level that the machine has, and what their results may lose."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mygpt.kernels.cpu import isa, library

# Those that can be compiled here: without a C compiler none.
LEVELS = [level for level in isa.machine_levels() or ["native"] if library.load(level)[0] is not None]
# Of the largest number of the result: a float32 sum, or up to three roundings to bfloat16 on the way.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], library.Library | None]:
    """A function that makes a level the one that is held, and gives its kernels."""

    def hold(level: str) -> library.Library | None:
        monkeypatch.setattr(isa, "level", lambda: level)
        return library.active()

    return hold


@pytest.fixture(params=LEVELS)
def kernels(request: pytest.FixtureRequest, hold: Callable[[str], library.Library]) -> library.Library:
    """The kernels of each level, which is held."""
    return hold(request.param)


@pytest.fixture(params=[level for level in LEVELS if library.load(level)[0].has_tiles])
def tiles(request: pytest.FixtureRequest, hold: Callable[[str], library.Library]) -> library.Library:
    """The same of levels that have AVX512-BF16 or AMX."""
    return hold(request.param)


@pytest.fixture(params=[level for level in LEVELS if library.load(level)[0].has_fourbit])
def fourbit(request: pytest.FixtureRequest, hold: Callable[[str], library.Library]) -> library.Library:
    """The same of levels that have AVX512-VNNI."""
    return hold(request.param)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def check(y: Tensor | None, reference: Tensor, dtype: torch.dtype | None = None) -> None:
    """That y is the reference, in float64, up to the `TOLERANCE` of its dtype or of another."""
    assert y is not None
    assert y.shape == reference.shape
    error = (y.double() - reference).abs().max() / reference.abs().max().clamp(min=0.01)
    assert error < TOLERANCE[dtype or y.dtype]

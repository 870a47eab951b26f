"""Quantized weights in parts and on ranks: SmolLM2's, whose slices end where blocks of 64 do."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mygpt import LLM
from mygpt.checkpoint.open import open_checkpoint
from mygpt.families import read_config
from mygpt.loading.build import build
from mygpt.loading.load import LoadedModel
from mygpt.options import LoadOptions
from mygpt.parallel.placement import Placement
from mygpt.quantize.formats.bnb import MODES
from tests.parallel.answers import LOGITS, answers
from tests.parallel.test_equal import on_ranks
from tests.parallel.threads import on_threads

CPU = torch.device("cpu")


def options(mode: str) -> dict[str, Any]:
    return {"precision": "bf16-true", "quantize": mode}


def logits(folder: Path, mode: str, strategy: str | None, parts: int) -> torch.Tensor:
    placement = Placement(strategy, (CPU,) * parts, ("cpu",) * parts)
    checkpoint = open_checkpoint(folder)
    architecture = read_config(checkpoint.config)
    model, precision = build(checkpoint, *architecture, placement, LoadOptions(**options(mode)))
    loaded = LoadedModel(model, None, frozenset(), placement.names, precision, strategy, load_s=0.0)
    return answers(LLM(loaded), LOGITS)["logits"]


# One of blocks and one of rows; the others store their blocks' scales otherwise.
DEFAULT = ("bnb.nf4", "bnb.int8")
IN_TURN = [pytest.param(mode, marks=() if mode in DEFAULT else pytest.mark.full) for mode in MODES]


@pytest.fixture(scope="module")
def on_one(smollm2: Path) -> Callable[[str], torch.Tensor]:
    return cache(lambda mode: logits(smollm2, mode, None, 1))


@pytest.fixture(scope="module")
def on_three_ranks(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    jobs = [(mode, str(smollm2), "tensor", False, LOGITS, options(mode)) for mode in MODES]
    return on_ranks(tmp_path_factory.mktemp("quantized"), jobs, 3)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("mode", IN_TURN)
def test_in_parts(smollm2: Path, on_one: Callable[[str], torch.Tensor], mode: str) -> None:
    assert torch.equal(logits(smollm2, mode, "sequential", 3), on_one(mode))


@pytest.mark.parametrize("mode", IN_TURN)
def test_on_threads(smollm2: Path, on_one: Callable[[str], torch.Tensor], mode: str) -> None:
    with on_threads(smollm2, 3, **options(mode)) as llm:
        assert difference(answers(llm, LOGITS)["logits"], on_one(mode)) < bound(mode)


@pytest.mark.full
@pytest.mark.parametrize("mode", MODES)
def test_on_ranks(on_three_ranks: dict[str, Any], on_one: Callable[[str], torch.Tensor], mode: str) -> None:
    assert difference(on_three_ranks[mode]["logits"], on_one(mode)) < bound(mode)


def bound(mode: str) -> float:
    """Blocks of 64 are the same: what is left is bfloat16's rounding of the sums, over 30 layers.

    But a slice of columns has scales of its own for its rows (int8), and for its blocks' scales (-dq).
    """
    return 0.03 if mode in ("bnb.nf4", "bnb.fp4") else 0.1

"""The guard against an answer that repeats itself: what it finds, and what it must let pass."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mygpt.engine.repetition import (
    FEW_DISTINCT,
    MAX_PERIOD,
    MIN_REPEATS,
    MIN_SPAN,
    MIN_SPAN_FEW,
    repeated_period,
)

ROOT = Path(__file__).parents[2]
PROSE = list(range(1000, 1300))  # no id twice


@pytest.mark.parametrize("period", [1, FEW_DISTINCT, 40, 64, MAX_PERIOD])
def test_a_block_that_comes_again_and_again_is_found_at_the_least_length(period: int) -> None:
    span = max(MIN_SPAN, MIN_REPEATS * period)
    looping = (list(range(period)) * span)[:span]
    assert repeated_period(PROSE + looping) == period
    assert repeated_period(PROSE + looping[1:]) is None
    assert repeated_period([*PROSE, *looping, 999]) is None


def test_few_different_tokens_may_go_on_for_longer() -> None:
    row = [1, 2] * 9 + [3]
    board = row * (MIN_SPAN_FEW // len(row) + 1)
    assert repeated_period(PROSE + board[: MIN_SPAN_FEW - 1]) is None
    assert repeated_period(PROSE + board[:MIN_SPAN_FEW]) == len(row)


def test_one_changed_token_in_the_span_is_no_repetition() -> None:
    looping = list(range(32)) * 8
    assert repeated_period(looping) == 32
    for index in range(0, MIN_SPAN, 37):
        changed = [*looping]
        changed[index] = 999
        assert repeated_period(changed) is None


def _texts() -> Iterator[str]:
    yield from (path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks" / "text").iterdir())
    for folder in ("mygpt", "tests", "benchmarks"):
        yield from (path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py"))
    yield from (path.read_text(encoding="utf-8") for path in (ROOT / "mygpt").rglob("*.[ch]"))
    yield "\n".join(f"{n}. I will not talk in class." for n in range(1, 101))
    yield "\n".join(str(n) for n in range(1000))
    yield "ha " * 100 + "\n" + "=" * 200 + "\n" + "-" * 200
    yield ("| " + "--- | " * 12 + "\n" + "|   " * 12 + "|\n") * 3
    yield "board = [\n" + "    [0, 0, 0, 0, 0, 0, 0, 0, 0],\n" * 9 + "]"
    yield "\n".join("I will not talk in class." for _ in range(25))


def test_no_text_that_people_write_is_cut(smollm2_cache: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2_cache / "SmolLM2-135M-Instruct" / "tokenizer.json"))
    for text in _texts():
        ids = tokenizer.encode(text).ids
        for end in range(MIN_SPAN, len(ids) + 1, 1 if len(ids) < 1000 else 16):
            found = repeated_period(ids[max(0, end - MIN_SPAN_FEW) : end])
            assert found is None, f"{text[:80]!r} at token {end}: a block of {found}"

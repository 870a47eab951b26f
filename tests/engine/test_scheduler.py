"""Sequences of different settings decode together, join and leave between steps, and each is as if it were alone."""

import random
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from typing import Any

import pytest
import torch

from mygpt import LLM
from mygpt.engine.drafts import Drafter
from mygpt.engine.scheduler import Scheduler, decode
from mygpt.engine.sequence import Sequence
from mygpt.engine.speculation import ModelDrafter, NGramDrafter
from mygpt.options import Sampling
from tests.families.variants import ORIGINAL, WINDOW, variant

FAMILIES = ["llama-gqa", "mistral-window", "gpt-oss", "deepseek-v3-yarn", "llama-dynamic", "phi3-longrope"]
GREEDY = Sampling(temperature=0.0)
SETTINGS = [
    GREEDY,
    Sampling(temperature=0.7, top_k=20),
    replace(GREEDY, repetition_penalty=1.4),
    Sampling(top_p=0.9),
    Sampling(temperature=1.3, min_p=0.05, repetition_penalty=1.2),
    GREEDY,
]


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp(request.param)
    variant(request.param).build(folder)
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


def requests(llm: LLM, settings: SequenceOf[Sampling] = SETTINGS) -> list[Sequence]:
    """Of many lengths and limits: some cross the window, some the original length."""
    torch.manual_seed(3)
    lengths = [1, WINDOW + 1, ORIGINAL - 6, 5, ORIGINAL + 3, 2]
    limits = [9, 30, 14, 1, 5, 22]
    return [
        Sequence(torch.randint(0, llm.config.vocab_size, (length,)).tolist(), limit, row, sampling)
        for row, (length, limit, sampling) in enumerate(zip(lengths, limits, settings, strict=True))
    ]


def alone(llm: LLM, settings: SequenceOf[Sampling] = SETTINGS) -> list[list[int]]:
    sequences = requests(llm, settings)
    for sequence in sequences:
        list(decode(llm.loaded.model, [sequence], vocab_size=llm.loaded.vocab_size))
    return [sequence.new_ids for sequence in sequences]


def run(llm: LLM, arrivals: list[list[Sequence]], drafter: Drafter | None = None) -> None:
    """Each list joins before another step; then all run to their ends."""
    scheduler = Scheduler(llm.loaded.model, vocab_size=llm.loaded.vocab_size, drafter=drafter)
    for arriving in arrivals:
        scheduler.add(arriving)
        list(scheduler.step())
    while scheduler.has_unfinished:
        list(scheduler.step())


def test_settings_belong_to_the_sequence(llm: LLM) -> None:
    sequences = requests(llm)
    run(llm, [sequences])
    assert [s.new_ids for s in sequences] == alone(llm)
    assert {s.finish_reason for s in sequences} == {"length"}


@pytest.mark.parametrize("seed", range(3))
def test_they_join_in_any_order_at_any_step(llm: LLM, seed: int) -> None:
    sequences = requests(llm)
    chance = random.Random(seed)
    arrivals: list[list[Sequence]] = [[] for _ in range(12)]
    for sequence in sequences:
        chance.choice(arrivals).append(sequence)
    run(llm, arrivals)
    assert [s.new_ids for s in sequences] == alone(llm)


@pytest.mark.parametrize("kind", ["ngram", "model"])
def test_drafts_follow_their_sequences(llm: LLM, kind: str) -> None:
    """Rows move as others leave and join: the draft model's cache moves with them."""
    settings = [GREEDY if sampling.repetition_penalty == 1 else SETTINGS[2] for sampling in SETTINGS]
    sequences = requests(llm, settings)
    loaded = llm.loaded
    drafter = NGramDrafter() if kind == "ngram" else ModelDrafter(loaded.model, loaded.vocab_size)
    run(llm, [sequences[:2], [], sequences[2:5], [], [], sequences[5:]], drafter)
    assert [s.new_ids for s in sequences] == alone(llm, settings)
    if kind == "model":  # which drafts for itself
        drafted = sum(s.draft_tokens for s in sequences)
        assert drafted == sum(s.accepted_draft_tokens for s in sequences)


def test_end_tokens_belong_to_the_sequence(llm: LLM) -> None:
    expected = alone(llm)
    sequences = requests(llm)
    ends = [expected[1][4], expected[5][2]]
    sequences[1].stop_ids, sequences[5].stop_ids = frozenset(ends[:1]), frozenset(ends[1:])
    run(llm, [sequences])
    for row, sequence in enumerate(sequences):
        whole = expected[row]
        cut = whole.index(ends[row == 5]) + 1 if row in (1, 5) else len(whole)
        assert sequence.new_ids == whole[:cut]
        assert sequence.finish_reason == ("stop" if row in (1, 5) else "length")


class Counting:
    """A model that notes how many rows each of its forward passes has."""

    def __init__(self, model: Any) -> None:
        self.model, self.rows = model, []
        self.config, self.rope, self.allocate_cache = model.config, model.rope, model.allocate_cache

    def __call__(self, ids: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        self.rows.append(len(ids))
        return self.model(ids, *arguments, **options)


def test_finished_rows_compute_nothing(llm: LLM) -> None:
    """One that a reader ends early leaves too."""
    model = Counting(llm.loaded.model)
    sequences = [Sequence([7, row], 2 + 3 * row, seed=0, sampling=GREEDY) for row in range(4)]
    scheduler = Scheduler(model, vocab_size=llm.loaded.vocab_size)
    scheduler.add(sequences)
    while scheduler.has_unfinished:
        list(scheduler.step())
        if len(sequences[3].new_ids) == 4:
            sequences[3].finish_reason = "stop"
    assert model.rows == [4, 4, 3, 3, 2, 1, 1, 1]
    assert [len(s.new_ids) for s in sequences] == [2, 5, 8, 4]
    assert sum(model.rows[1:]) == sum(len(s.new_ids) - 1 for s in sequences)


def test_all_leave_and_others_come(llm: LLM) -> None:
    scheduler = Scheduler(llm.loaded.model, vocab_size=llm.loaded.vocab_size)
    for _ in range(2):
        sequences = requests(llm)
        scheduler.add(sequences)
        while scheduler.has_unfinished:
            list(scheduler.step())
        assert [s.new_ids for s in sequences] == alone(llm)
    assert list(scheduler.step()) == []


def test_one_that_is_ended_while_it_waits_never_joins(llm: LLM) -> None:
    first, second = requests(llm)[:2]
    second.finish_reason = "stop"
    run(llm, [[first, second]])
    assert second.new_ids == []
    assert len(first.new_ids) == first.max_new_tokens

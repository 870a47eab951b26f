"""The filters, on exact values; and that a draw follows the probabilities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mygpt.engine.sampling import draw, keep_min_p, keep_top_p, penalize, sample
from mygpt.errors import InputError, RunError
from mygpt.options import Sampling

LOGITS = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()


def kept(logits: torch.Tensor) -> list[int]:
    return logits[0].isfinite().nonzero().flatten().tolist()


def support(logits: torch.Tensor, **options: float) -> set[int]:
    """The ids that can be drawn, found by many draws."""
    sampling = Sampling(**{"temperature": 1.0, "top_k": 0, **options})
    uniforms = torch.linspace(0, 1, 400, dtype=torch.float64)[:-1]
    return set(sample(logits.expand(len(uniforms), -1), sampling, uniforms).tolist())


@pytest.mark.parametrize(
    ("top_p", "ids"), [(0.3, [3]), (0.4, [3]), (0.5, [2, 3]), (0.71, [1, 2, 3]), (0.95, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, ids: list[int]) -> None:
    assert kept(keep_top_p(LOGITS, top_p)) == ids


@pytest.mark.parametrize(("min_p", "ids"), [(1.0, [3]), (0.7, [2, 3]), (0.5, [1, 2, 3]), (0.2, [0, 1, 2, 3])])
def test_min_p_is_relative_to_the_most_likely(min_p: float, ids: list[int]) -> None:
    assert kept(keep_min_p(LOGITS, min_p - 1e-6)) == ids


def test_what_lies_on_the_boundary_itself() -> None:
    """In numbers that are exact: half is reached by two of four, and what is as likely as the most likely stays."""
    assert len(kept(keep_top_p(torch.zeros(1, 4), 0.5))) == 2
    assert kept(keep_min_p(torch.tensor([[1.0, 3.0, 3.0]]), 1.0)) == [1, 2]


@pytest.mark.parametrize(("top_k", "ids"), [(1, {3}), (2, {2, 3}), (4, {0, 1, 2, 3}), (9, {0, 1, 2, 3})])
def test_top_k_samples_from_k(top_k: int, ids: set[int]) -> None:
    assert support(LOGITS, top_k=top_k) == ids


def test_repetition_penalty_lowers_both_signs() -> None:
    seen = torch.tensor([[True, True, False]])
    assert penalize(torch.tensor([[2.0, -2.0, 2.0]]), seen, 2.0).tolist() == [[1.0, -4.0, 2.0]]


def test_temperature_zero_is_greedy_and_a_tiny_one_does_not_overflow() -> None:
    uniforms = torch.tensor([0.99], dtype=torch.float64)
    assert sample(LOGITS, Sampling(temperature=0), uniforms).item() == 3
    assert sample(LOGITS * 1e3, Sampling(temperature=1e-30), uniforms).item() == 3


def test_draw_follows_the_probabilities_and_passes_over_zeros() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    uniforms = torch.tensor([0.0, 0.24, 0.25, 0.999], dtype=torch.float64)
    assert draw(probabilities.expand(4, -1), uniforms).tolist() == [1, 1, 3, 3]
    many = draw(probabilities.expand(4000, -1), torch.rand(4000, dtype=torch.float64))
    assert abs((many == 3).float().mean().item() - 0.75) < 0.03


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(RunError, match="not finite"):
        sample(torch.tensor([[0.0, bad]]), Sampling(temperature=0), torch.zeros(1, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 30, 64]),
    top_p=st.sampled_from([0.1, 0.6, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    penalty=st.sampled_from([1.0, 1.3, 0.7]),
)
def test_the_filters_together_are_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    """Evenly spread draws hit an id about as often as transformers' filtered probability says."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 64, generator=generator) * 3
    prompt = torch.randint(0, 64, (1, 9), generator=generator)
    filters = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)]
    )
    filters += [TopKLogitsWarper(top_k)] if top_k else []
    filters += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    filters += [MinPLogitsWarper(min_p)] if min_p else []
    expected = filters(prompt, logits.clone()).softmax(-1)[0]

    draws = 20_000
    seen = torch.zeros(1, 64, dtype=torch.bool).scatter_(1, prompt, True)
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty)
    ids = sample(logits.expand(draws, -1), sampling, uniforms, seen.expand(draws, -1))
    frequencies = torch.bincount(ids, minlength=64) / draws
    assert (frequencies - expected).abs().max() < 2 / draws + 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(options))}"):
        Sampling(**options)

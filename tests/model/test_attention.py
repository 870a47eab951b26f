"""Attention with sinks, by both of its ways, is the softmax that it is defined as."""

import pytest
import torch
from torch import Tensor

from mygpt.model.attention import attend, attend_with_sinks
from mygpt.model.forward_context import Mask


def random_heads(new: int, seen: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(2, new, 6, 16),
        torch.randn(2, kv_heads, seen, 16),
        torch.randn(2, kv_heads, seen, 16),
    )


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("kind", ["causal", "allowed", "one token", "one token, allowed"])
def test_sinks_join_the_softmax_and_bring_no_value(kind: str, kv_heads: int, scale: float | None) -> None:
    new = 1 if kind.startswith("one") else 5
    q, k, v = random_heads(new, 5, kv_heads)
    allowed = torch.rand(2, 1, new, 5) < 0.5 if kind.endswith("allowed") else None
    mask = Mask(allowed, causal=kind == "causal")
    seen = (
        torch.ones(5, 5).bool().tril() if mask.causal else torch.ones(1) > 0 if allowed is None else allowed
    )
    sinks = torch.randn(6) * 3
    keys, values = (x.repeat_interleave(6 // kv_heads, dim=1) for x in (k, v))
    scores = q.transpose(1, 2) @ keys.transpose(-1, -2) * (scale or 16**-0.5)
    weights = scores.exp() * seen
    weights = weights / (weights.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    expected = (weights @ values).transpose(1, 2)
    torch.testing.assert_close(attend_with_sinks(q, k, v, mask, scale, sinks), expected)


@pytest.mark.parametrize("new", [1, 5])
def test_a_sink_far_below_every_score_changes_nothing_and_one_far_above_takes_all(new: int) -> None:
    q, k, v = random_heads(new, 5, 2)
    mask = Mask(causal=new > 1)
    without = attend(q, k, v, mask)
    torch.testing.assert_close(attend_with_sinks(q, k, v, mask, None, torch.full((6,), -1e4)), without)
    nothing = attend_with_sinks(q, k, v, mask, None, torch.full((6,), 1e4))
    assert torch.equal(nothing, torch.zeros_like(nothing))

"""From logits to the next token, as pure functions. Filters run in the order of transformers.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mygpt.errors import RunError
from mygpt.options import Sampling


def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor, seen: Tensor | None = None) -> Tensor:
    """The next token of each sequence, (B,) int64.

    Args:
        logits: (B, V), of the ids that may be sampled.
        sampling: the settings, the same for all of them.
        uniforms: (B,) float64, a random number in [0, 1) for each sequence, so that no result depends on a
            neighbour.
        seen: (B, V) true at ids that the repetition penalty is for.

    Raises:
        RunError: a logit is not finite.
    """
    logits = _checked(logits, sampling, seen)
    if sampling.greedy:
        return logits.argmax(-1)
    logits, ids = _filtered(logits, sampling)
    choice = draw(logits.softmax(-1), uniforms)
    return choice if ids is None else ids.gather(-1, choice[:, None])[:, 0]


def distribution(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """The probabilities (B, V) that `sample` draws from, where it is not greedy."""
    filtered, ids = _filtered(_checked(logits, sampling, seen), sampling)
    probabilities = filtered.softmax(-1)
    return probabilities if ids is None else torch.zeros_like(logits).float().scatter(-1, ids, probabilities)


def rejection_sample(target: Tensor, draft: Tensor, drafted: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (B,) that follow `target` and equal the drafted ones as often as they can (arXiv:2211.17192, algorithm 1).

    A drafted token is taken with probability min(1, target / draft), else one is drawn from what of the target
    exceeds the draft. One number is enough for both: given that it refuses, the rest of it is uniform again.

    Args:
        target: (B, V) probabilities to follow.
        draft: (B, V) probabilities that the drafted tokens were drawn from; a row of zeros has no draft.
        drafted: (B,) those tokens.
        uniforms: (B,) float64, numbers in [0, 1).
    """
    wanted, offered = (p.gather(-1, drafted[:, None])[:, 0] for p in (target, draft))
    share = torch.where(offered > 0, wanted / offered, 0).clamp(max=1)
    excess = (target - draft).clamp(min=0)
    excess = torch.where(excess.sum(-1, keepdim=True) > 0, excess, target)  # equal but for rounding
    uniforms = uniforms.to(share.dtype).to(share.device)
    rest = ((uniforms - share) / (1 - share)).nan_to_num().clamp(0, 1 - 2**-24)
    return torch.where(uniforms < share, drafted, draw(excess, rest))


def _checked(logits: Tensor, sampling: Sampling, seen: Tensor | None) -> Tensor:
    """Logits in float32, finite and penalized."""
    logits = logits.float()
    if not bool(logits.isfinite().all()):
        raise RunError(
            "the model's logits are not finite: with --precision 16-true take bf16-true or 32-true, "
            "else the weights are damaged; download them again"
        )
    return logits if seen is None else penalize(logits, seen, sampling.repetition_penalty)


def _filtered(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Logits with the temperature in and -inf where nothing is to be drawn, of these ids (None: of all)."""
    # Relative to the largest, so that a tiny temperature cannot overflow.
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    ids = None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, ids = logits.topk(sampling.top_k)  # what follows works on these few alone
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = keep_min_p(logits, sampling.min_p)
    return logits, ids


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Positive logits of seen ids divided by the penalty, negative ones multiplied (CTRL, arXiv:1909.05858)."""
    return logits.where(~seen, (logits / penalty).where(logits > 0, logits * penalty))


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """-inf for all but the fewest most likely ids that reach `top_p` together (arXiv:1904.09751)."""
    ordered, order = logits.sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return logits.masked_fill((before >= top_p).scatter(-1, order, before >= top_p), -math.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """-inf for ids less likely than `min_p` times the most likely one (arXiv:2407.01082)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(min_p), -math.inf)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """One index a row, by the inverse of the cumulative distribution: (B, V) and (B,) to (B,)."""
    device = probabilities.device
    if device.type == "mps":  # which has no float64
        probabilities = probabilities.cpu()
    cumulative = probabilities.double().cumsum(-1)
    targets = uniforms.to(cumulative.device)[:, None] * cumulative[:, -1:]
    # right=True passes over ids of probability zero.
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].to(device)

"""Routers: which experts a token runs through, and by what weights their answers are added.

Shapes: N tokens, C hidden size, E experts, K of them chosen per token, G groups of experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.config import Config, MoEConfig, RouterType
from mygpt.model.linear import Linear


class SoftmaxRouter(Linear):
    """The experts of the largest shares in a softmax over all (arXiv:2401.04088); it is taken in float32."""

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__(config.hidden_size, moe.n_experts, bias=moe.router_bias)
        self.moe = moe

    def choose(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (N, K) and the numbers (N, K) of the experts that each token (N, C) runs through."""
        weights, chosen = self(tokens).float().softmax(-1).topk(self.moe.n_experts_per_token)
        if self.moe.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(tokens.dtype), chosen


class GroupedSoftmaxRouter(SoftmaxRouter):
    """DeepSeek-V2's (arXiv:2405.04434, section 2.2.2): experts of those groups alone whose best is the best."""

    def choose(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `SoftmaxRouter.choose`."""
        shares = _float32_logits(self, tokens).softmax(-1)
        best = shares.view(len(shares), self.moe.n_groups, -1).amax(-1)
        weights, chosen = _of_best_groups(shares, best, self.moe).topk(self.moe.n_experts_per_token)
        return (weights * self.moe.weights_scale).to(tokens.dtype), chosen


class SigmoidRouter(SoftmaxRouter):
    """DeepSeek-V3's (arXiv:2412.19437, section 2.1.2): each expert is scored by itself.

    `correction` (E,) evens out how often experts are chosen; it is no part of their weights. It stays in float32.
    """

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__(config, moe)
        self.correction = nn.Parameter(torch.empty(moe.n_experts))

    def choose(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `SoftmaxRouter.choose`."""
        scores = _float32_logits(self, tokens).sigmoid()
        corrected = scores + self.correction
        best = corrected.view(len(corrected), self.moe.n_groups, -1).topk(2).values.sum(-1)
        chosen = _of_best_groups(corrected, best, self.moe).topk(self.moe.n_experts_per_token).indices
        weights = scores.gather(-1, chosen)
        if self.moe.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return (weights * self.moe.weights_scale).to(tokens.dtype), chosen


def _float32_logits(router: Linear, tokens: Tensor) -> Tensor:
    """(N, E), not rounded to fewer bits: close scores would change places."""
    return kernels.linear(tokens.float(), router.weight.float())


def _of_best_groups(scores: Tensor, of_groups: Tensor, moe: MoEConfig) -> Tensor:
    """The scores (N, E) where `of_groups` (N, G) says that the group is among the best, minus infinity elsewhere."""
    if moe.n_groups_chosen == moe.n_groups:
        return scores
    best = of_groups.topk(moe.n_groups_chosen).indices
    dropped = torch.ones_like(of_groups, dtype=torch.bool).scatter_(-1, best, False)
    by_group = scores.view(len(scores), moe.n_groups, -1)
    return by_group.masked_fill(dropped[..., None], -torch.inf).flatten(1)


ROUTERS: dict[RouterType, type[SoftmaxRouter]] = {
    "softmax": SoftmaxRouter,
    "grouped_softmax": GroupedSoftmaxRouter,
    "sigmoid": SigmoidRouter,
}

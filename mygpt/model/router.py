"""Routers: they choose the experts that a token runs through, and the weights of the experts' outputs.

Shapes: N tokens, C hidden size, E experts, K of them per token, G groups of experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.config import Config, MoEConfig, RouterType
from mygpt.model.linear import Linear


class SoftmaxRouter(Linear):
    """The experts of the highest probabilities; a softmax over all, in float32 (Mixtral, arXiv:2401.04088)."""

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__(config.hidden_size, moe.n_experts, bias=moe.router_bias)
        self.moe = moe

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`topk_weights` (N, K) and `topk_indices` (N, K), the expert ids, of tokens (N, C)."""
        topk_weights, topk_indices = self(tokens).float().softmax(-1).topk(self.moe.num_experts_per_tok)
        if self.moe.norm_topk_prob:
            topk_weights = topk_weights / topk_weights.sum(-1, keepdim=True)
        return topk_weights.to(tokens.dtype), topk_indices


class GroupedSoftmaxRouter(SoftmaxRouter):
    """DeepSeek-V2's (arXiv:2405.04434, section 2.2.2): only experts of the best groups.

    A group's score is that of its best expert.
    """

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `SoftmaxRouter.route`."""
        probabilities = _float32_logits(self, tokens).softmax(-1)
        group_scores = probabilities.view(len(probabilities), self.moe.n_group, -1).amax(-1)
        probabilities = _keep_top_groups(probabilities, group_scores, self.moe)
        topk_weights, topk_indices = probabilities.topk(self.moe.num_experts_per_tok)
        return (topk_weights * self.moe.routed_scaling_factor).to(tokens.dtype), topk_indices


class SigmoidRouter(SoftmaxRouter):
    """DeepSeek-V3's (arXiv:2412.19437, section 2.1.2): each expert is scored by itself, with a sigmoid.

    A group's score is the sum of its two best. `e_score_correction_bias` (E,) balances how often experts are chosen:
    it counts in the choice, not in the weights. It stays in float32.
    """

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__(config, moe)
        self.e_score_correction_bias = nn.Parameter(torch.empty(moe.n_experts))

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `SoftmaxRouter.route`."""
        scores = _float32_logits(self, tokens).sigmoid()
        corrected = scores + self.e_score_correction_bias
        group_scores = corrected.view(len(corrected), self.moe.n_group, -1).topk(2).values.sum(-1)
        corrected = _keep_top_groups(corrected, group_scores, self.moe)
        topk_indices = corrected.topk(self.moe.num_experts_per_tok).indices
        topk_weights = scores.gather(-1, topk_indices)
        if self.moe.norm_topk_prob:
            topk_weights = topk_weights / topk_weights.sum(-1, keepdim=True)
        return (topk_weights * self.moe.routed_scaling_factor).to(tokens.dtype), topk_indices


def _float32_logits(router: Linear, tokens: Tensor) -> Tensor:
    """(N, E) in float32: rounding could change the order of close scores."""
    return kernels.linear(tokens.float(), router.weight.float())


def _keep_top_groups(scores: Tensor, group_scores: Tensor, moe: MoEConfig) -> Tensor:
    """The scores (N, E) of experts in the `topk_group` groups of the highest `group_scores` (N, G).

    The scores of all other experts are minus infinity.
    """
    if moe.topk_group == moe.n_group:
        return scores
    group_indices = group_scores.topk(moe.topk_group).indices
    dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(-1, group_indices, False)
    by_group = scores.view(len(scores), moe.n_group, -1)
    return by_group.masked_fill(dropped[..., None], -torch.inf).flatten(1)


ROUTERS: dict[RouterType, type[SoftmaxRouter]] = {
    "softmax": SoftmaxRouter,
    "grouped_softmax": GroupedSoftmaxRouter,
    "sigmoid": SigmoidRouter,
}

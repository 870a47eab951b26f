"""The sparse mixture of experts. Shapes: N tokens, C hidden size, E experts, K of them per token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mygpt.model.config import Config, MoEConfig
from mygpt.model.linear import Linear
from mygpt.model.mlp import GatedMLP, make_gated_mlp
from mygpt.model.router import ROUTERS


class MoE(nn.Module):
    """The router sends each token through K of the E experts. All tokens go through the shared expert, if there is one.

    x ─┬─ router ─ topk_weights ─┐
       ├─ top K experts ────────(x)─ sum ─(+)─
       └─ shared expert ───────────────────┘
    """

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__()
        self.router = ROUTERS[moe.router](config, moe)
        self.experts = nn.ModuleList(
            make_gated_mlp(config, moe.intermediate_size) for _ in range(moe.n_experts)
        )
        self.shared = make_shared_expert(config, moe) if moe.shared_intermediate_size else None

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape. An expert without tokens costs nothing."""
        tokens = x.flatten(0, -2)
        topk_weights, topk_indices = self.router.route(tokens)
        y = torch.zeros_like(tokens)
        # `order` sorts the N K pairs of a token and an expert by their experts.
        sorted_ids, order = topk_indices.flatten().sort(stable=True)
        expert_ids, counts = torch.unique_consecutive(sorted_ids, return_counts=True)
        for expert_id, pairs in zip(expert_ids.tolist(), torch.split(order, counts.tolist()), strict=True):
            token_indices = pairs // topk_indices.shape[-1]
            expert_output = self.experts[expert_id](tokens[token_indices])
            y.index_add_(0, token_indices, expert_output * topk_weights.flatten()[pairs, None])
        if self.shared is not None:
            y = y + self.shared(tokens)
        return y.view_as(x)


class SharedExpert(nn.Module):
    """sigmoid(scale(x)) * mlp(x): the MLP of every token, scaled by a gate of one number a token."""

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__()
        self.mlp = GatedMLP(config, moe.shared_intermediate_size)
        self.scale = Linear(config.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        y: Tensor = self.scale(x).sigmoid() * self.mlp(x)
        return y


def make_shared_expert(config: Config, moe: MoEConfig) -> nn.Module:
    """The expert that every token runs through, with a gate or without one."""
    return SharedExpert(config, moe) if moe.shared_gate else GatedMLP(config, moe.shared_intermediate_size)

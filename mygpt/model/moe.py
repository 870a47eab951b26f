"""The sparse mixture of experts. Shapes: N tokens, C hidden size, E experts, K of them chosen per token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mygpt.model.config import Config, MoEConfig
from mygpt.model.linear import Linear
from mygpt.model.mlp import GatedMLP, make_gated_mlp
from mygpt.model.router import ROUTERS


class MoE(nn.Module):
    """A router sends each token through K of the E experts, and all through the shared one if there is one.

    x ─┬─ router ─ K weights and numbers ─┐
       ├─ the K chosen experts ──────────(x)─ sum ─(+)─
       └─ shared expert ────────────────────────────┘
    """

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__()
        self.n_chosen = moe.n_experts_per_token
        self.router = ROUTERS[moe.router](config, moe)
        self.experts = nn.ModuleList(
            make_gated_mlp(config, moe.intermediate_size) for _ in range(moe.n_experts)
        )
        self.shared = make_shared_expert(config, moe) if moe.shared_intermediate_size else None

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape. An expert that no token chose costs nothing."""
        tokens = x.flatten(0, -2)
        weights, chosen = self.router.choose(tokens)
        y = torch.zeros_like(tokens)
        numbers, places = chosen.flatten().sort(stable=True)  # places in (N, K), all of one expert together
        numbers, counts = torch.unique_consecutive(numbers, return_counts=True)
        groups = torch.split(places, counts.tolist())
        for number, of_expert in zip(numbers.tolist(), groups, strict=True):
            rows = of_expert // self.n_chosen
            y.index_add_(0, rows, self.experts[number](tokens[rows]) * weights.flatten()[of_expert, None])
        if self.shared is not None:
            y = y + self.shared(tokens)
        return y.view_as(x)


class SharedExpert(nn.Module):
    """sigmoid(scale(x)) * mlp(x): the MLP of every token, as much of it as the token wants."""

    def __init__(self, config: Config, moe: MoEConfig) -> None:
        super().__init__()
        self.mlp = GatedMLP(config, moe.shared_intermediate_size)
        self.scale = Linear(config.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        y: Tensor = self.scale(x).sigmoid() * self.mlp(x)
        return y


def make_shared_expert(config: Config, moe: MoEConfig) -> nn.Module:
    """The expert of every token, with a gate or without."""
    return SharedExpert(config, moe) if moe.shared_gate else GatedMLP(config, moe.shared_intermediate_size)

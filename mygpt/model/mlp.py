"""The dense MLPs and their activations. Shapes: B sequences, T tokens, C hidden size."""

from __future__ import annotations

from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.config import ClampedSwiGLU, Config
from mygpt.model.linear import FusedLinear, Linear


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: Config, width: int | None = None) -> None:
        super().__init__()
        width = width or config.intermediate_size
        self.gate_up = FusedLinear(config.hidden_size, {"gate": width, "up": width}, bias=config.mlp_bias)
        self.down = Linear(width, config.hidden_size, bias=config.mlp_bias)
        self.activation = config.activation

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        y: Tensor = self.down(kernels.gated_linear(x, self.gate_up, self.activation))
        return y


class ClampedGatedMLP(GatedMLP):
    """down of a gated product whose factors are held within limits: gpt-oss's SwiGLU (arXiv:2508.10925)."""

    def __init__(self, config: Config, swiglu: ClampedSwiGLU, width: int | None = None) -> None:
        super().__init__(config, width)
        self.swiglu = swiglu

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        gate, up = self.gate_up.split(self.gate_up(x))
        limit, alpha = self.swiglu.limit, self.swiglu.alpha
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        y: Tensor = self.down((up + 1) * gate * (alpha * gate).sigmoid())
        return y


def make_gated_mlp(config: Config, width: int | None = None) -> GatedMLP:
    """The kind of gated MLP that the configuration asks for, as wide as `intermediate_size` or otherwise."""
    swiglu = config.clamped_swiglu
    return GatedMLP(config, width) if swiglu is None else ClampedGatedMLP(config, swiglu, width)


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = kernels.plain.ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y

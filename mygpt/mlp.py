"""The dense MLPs and their activations. Shapes: B sequences, T tokens, C hidden size."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mygpt import kernels
from mygpt.config import Activation, Config
from mygpt.linear import FusedLinear, Linear


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: Config, width: int | None = None) -> None:
        super().__init__()
        width = width or config.intermediate_size
        self.gate_up = FusedLinear(config.hidden_size, {"gate": width, "up": width}, bias=config.mlp_bias)
        self.down = Linear(width, config.hidden_size, bias=config.mlp_bias)
        self.activation_name = config.activation
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        y: Tensor = self.down(self._hidden(x))
        return y

    def _hidden(self, x: Tensor) -> Tensor:
        gate_up = self.gate_up
        if kernels.fits_gated(x, gate_up.weight, self.activation_name):
            return kernels.gated_linear(x, gate_up.weight, gate_up.bias, self.activation_name)
        gate, up = gate_up.split(gate_up(x))
        return self.activation(gate) * up


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
}

"""The norms: RMS norms and layer norms, with or without weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.config import Config, Norm


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm`, by a kernel where there is one."""

    offset = 0.0  # added to the weight

    def forward(self, x: Tensor) -> Tensor:
        """x (…, C) to the same shape."""
        return kernels.rms_norm(x, self.weight, self.eps or 0.0, self.offset)


class OnePlusRMSNorm(RMSNorm):
    """Gemma's: multiplies by 1 + weight, all in float32 until the end."""

    offset = 1.0


def layer_norm_without_bias(width: int, eps: float) -> nn.LayerNorm:
    """Cohere's: a layer norm that multiplies by weights and adds nothing."""
    return nn.LayerNorm(width, eps=eps, bias=False)


def plain_layer_norm(width: int, eps: float) -> nn.LayerNorm:
    """OLMo's: a layer norm that learns nothing."""
    return nn.LayerNorm(width, eps=eps, elementwise_affine=False)


_NORMS: dict[Norm, Callable[..., nn.Module]] = {
    "rms": RMSNorm,
    "rms_one_plus": OnePlusRMSNorm,
    "layer": nn.LayerNorm,
    "layer_no_bias": layer_norm_without_bias,
    "layer_plain": plain_layer_norm,
}


def make_norm(config: Config, width: int | None = None) -> nn.Module:
    """The kind of norm that the configuration asks for, over the hidden size or another width."""
    return _NORMS[config.norm](config.hidden_size if width is None else width, eps=config.norm_eps)

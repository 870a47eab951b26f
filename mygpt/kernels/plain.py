"""What the kernels compute, in plain PyTorch: for every device and dtype, for compiled code, and to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many rows a bfloat16 product on the CPU is bound by reading the weights, and oneDNN reads them 1.2 to
# 1.5 times as fast where they stand first (benchmarks/linear.py). In float32 that would be slower.
FEW_ROWS = 16


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, in) times weight (out, in), transposed, plus bias (out,)."""
    rows = x.numel() // x.shape[-1]
    if x.dtype is not torch.bfloat16 or x.device.type != "cpu" or rows > FEW_ROWS:
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, -1)
    y = torch.mv(weight, flat[0]) if rows == 1 else torch.mm(weight, flat.t()).t()
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], -1)


def gate(x: Tensor, activation: str) -> Tensor:
    """activation(g) * u, (…, width), of x (…, 2 * width): g, then u."""
    g, u = x.chunk(2, dim=-1)
    return ACTIVATIONS[activation](g) * u


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (offset + weight) over the last dimension; with an offset (Gemma's), in float32 until the end."""
    if not offset:
        return F.rms_norm(x, weight.shape, weight, eps)
    return (F.rms_norm(x.float(), weight.shape, eps=eps) * (offset + weight.float())).type_as(x)

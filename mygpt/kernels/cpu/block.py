"""A whole block in one call: spares what Python and torch cost between its parts, a fifth of a small model's step."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_long, c_void_p

import torch
from torch import Tensor

from mygpt.kernels.cpu.attention import Attention, attends_tokens
from mygpt.kernels.cpu.ops import ACTIVATIONS, Matrix, fits, has_tiles, loaded, max_rows
from mygpt.kernels.cpu.shm import Team

_MOST_NUMBERS = 1 << 22  # of x: 2048 tokens of a model of 2048


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((name, c_void_p) for name in ("attention_norm", "mlp_norm")),
        ("activation", c_long),
        *((name, c_float) for name in ("eps", "offset", "residual_scale")),
    )


class Block:
    """x + attention(norm(x)), then that + mlp(norm(that)): RMS norms, plain attention, a gated MLP."""

    def __init__(
        self,
        matrices: Sequence[Matrix],
        norms: Sequence[Tensor],
        *,
        activation: str,
        eps: float,
        offset: float,
        residual_scale: float,
        team: Team | None = None,
    ) -> None:
        """Keeps the places of the weights, not the weights: they are the caller's to hold.

        Args:
            matrices: qkv, output, gate_up, down.
            norms: the weights of the two norms.
            activation: one of ACTIVATIONS.
            eps: the norms'.
            offset: added to the norms' weights.
            residual_scale: multiplies what attention and MLP add.
            team: the ranks that hold the other parts of the matrices.
        """
        self.team = team
        pointers = [norm.data_ptr() for norm in norms]
        self.weights = _Block(*matrices, *pointers, ACTIVATIONS[activation], eps, offset, residual_scale)

    def __call__(self, x: Tensor, attention: Attention) -> Tensor:
        """x (B, T, C) to the same shape; `attention` is from `attention_call`."""
        x = x.contiguous()
        y = torch.empty_like(x)
        team = None if self.team is None else ctypes.byref(self.team.state)
        pointers = ctypes.byref(self.weights), ctypes.byref(attention), team
        loaded().mygpt_block(
            torch.get_num_threads(), *pointers, c_void_p(x.data_ptr()), c_void_p(y.data_ptr())
        )
        if self.team is not None:
            self.team.check()
        return y


def fits_block(x: Tensor, keys: Tensor, window: int) -> bool:
    """Whether `Block` takes x (B, T, C), by its cache's keys (B, K, S, D) and the layer's window (0: none).

    With more rows than `max_rows` or several tokens of a sequence it is for the matrix unit alone. What it holds in
    between is kept for the next call, so there are limits.
    """
    if not attends_tokens(x, keys, window):
        return False
    few = x.shape[1] == 1 and len(x) <= max_rows(x.dtype) and fits(x)
    return few or (x.dtype is torch.bfloat16 and x.numel() <= _MOST_NUMBERS and has_tiles())

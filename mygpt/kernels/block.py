"""A whole block in one call: spares what Python and torch cost between its parts, a fifth of a small model's step."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_long, c_void_p

import torch
from torch import Tensor

from mygpt.kernels.attention import Attention, fits_cache
from mygpt.kernels.ops import ACTIVATIONS, Matrix, fits, loaded, max_rows
from mygpt.kernels.team import Team


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
        """x (B, 1, C) to the same shape; `attention` is from `attention_call`."""
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


def fits_step(x: Tensor, keys: Tensor) -> bool:
    """Whether `Block` takes x (B, 1, C), by its cache's keys (B, K, S, D)."""
    return fits(x) and x.shape[1] == 1 and len(x) <= max_rows(x.dtype) and fits_cache(x.dtype, keys)

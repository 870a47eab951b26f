"""A whole block in one call: spares what Python and torch cost between its parts, a fifth of a small model's step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mygpt.kernels.cpu.attention import CacheStep, attention_args, takes_tokens
from mygpt.kernels.cpu.library import Library, active, ready
from mygpt.kernels.cpu.ops import halves, norm_of
from mygpt.kernels.cpu.structs import ACTIVATIONS, FOURBIT, MAX_GROUP, TYPES, BlockWeights, Matrix

_MOST_NUMBERS = (
    1 << 22
)  # of x, as what lies between the parts is kept for the next call: 2048 tokens of 2048 numbers


class FusedBlockKernel:
    """x + attention(norm(x)), then that + mlp(norm(that)): RMS norms, plain attention, a gated MLP."""

    def __init__(
        self, library: Library, weights: BlockWeights, tensors: Sequence[object], heads: int
    ) -> None:
        """`weights` hold addresses in the memory of `tensors`, which is kept; `heads` are the queries'."""
        self.library, self.weights, self.tensors, self.heads = library, weights, tensors, heads

    @staticmethod
    def make(
        matrices: Sequence[Matrix | None],
        norms: Sequence[Tensor],
        *,
        heads: int,
        kv_heads: int,
        activation: str,
        eps: float,
        offset: float,
        residual_scale: float,
    ) -> FusedBlockKernel | None:
        """The kernel, or None where there is none for such weights.

        Args:
            matrices: qkv, output, gate_up, down, from `Multiplier.kernel_matrix`.
            norms: the weights of the two norms.
            heads: of the queries.
            kv_heads: of the keys.
            activation: of the MLP.
            eps: the norms'.
            offset: added to the norms' weights.
            residual_scale: multiplies what attention and MLP add.
        """
        xtype = TYPES.get(norms[0].dtype)
        taken = [m for m in matrices if m is not None and m.xtype == xtype]
        if len(taken) < len(matrices) or norms[1].dtype is not norms[0].dtype:
            return None
        if activation not in ACTIVATIONS or heads > MAX_GROUP * kv_heads or not halves(taken[2]):
            return None
        library = active()
        if library is None or not (library.has_fourbit or all(matrix.type != FOURBIT for matrix in taken)):
            return None
        norm_args = [norm_of(norm, eps, offset) for norm in norms]
        weights = BlockWeights(*taken, *norm_args, ACTIVATIONS[activation], residual_scale)
        tensors = [*(matrix.tensors for matrix in taken), *norms]
        return FusedBlockKernel(library, weights, tensors, heads)

    def __call__(self, x: Tensor, step: CacheStep) -> Tensor | None:
        """x (B, T, C) to the same shape; None, and nothing is done, where other ways are better for such an x."""
        if ready(x) is not self.library or not self._takes(x, step):
            return None
        x = x.contiguous()
        y = torch.empty_like(x)
        args = attention_args(self.heads, step)
        self.library.c.mygpt_block(torch.get_num_threads(), self.weights, args, x.data_ptr(), y.data_ptr())
        return y

    def _takes(self, x: Tensor, step: CacheStep) -> bool:
        """Few tokens, one of each sequence; or by tiles, as many as leave working memory within a limit."""
        library = self.library
        if TYPES[x.dtype] != self.weights.qkv.xtype or not takes_tokens(library, x, step):
            return False
        if x.dtype is torch.bfloat16 and library.has_tiles and x.numel() <= _MOST_NUMBERS:
            return True
        return x.shape[1] == 1 and len(x) <= library.max_rows[x.dtype]

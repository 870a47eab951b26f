"""A block of the most common kind in one call of a kernel.

Shapes: B sequences, T tokens, C hidden size.
"""

from __future__ import annotations

from torch import Tensor

from mygpt import kernels
from mygpt.model.attention import Attention
from mygpt.model.forward_context import ForwardContext
from mygpt.model.gpt import GPT, Block
from mygpt.model.kv_cache import LayerCache
from mygpt.model.mlp import GatedMLP
from mygpt.model.norm import RMSNorm


def fuse_blocks(model: GPT) -> None:
    """Let each block that has a kernel for all of it run by that.

    Done once, when a model is built and its weights are there. Whoever puts other weights in their place does it again
    (moved, cast and copied blocks run unfused by themselves). Not of a model whose blocks are shared out or compiled.
    """
    for layer in model.layers:
        if isinstance(layer, Block):
            layer.fused = _fused(layer)


class FusedBlock:
    """What a block calls in place of its parts."""

    def __init__(self, attention: Attention, kernel: kernels.FusedBlockKernel) -> None:
        self.attention, self.kernel = attention, kernel

    def __call__(self, x: Tensor, context: ForwardContext, cache: LayerCache) -> Tensor | None:
        """x (B, T, C) to the same shape; None where the parts are better for such an x."""
        return self.kernel(x, self.attention.cache_step(context, cache))


def _fused(block: Block) -> FusedBlock | None:
    """None where a part is of a kind that no kernel takes."""
    attention, mlp = block.attention, block.mlp
    first, second = block.attention_norm, block.mlp_norm
    # exactly: a subclass computes something else
    if type(attention) is not Attention or type(mlp) is not GatedMLP or not attention.is_plain:
        return None
    if not isinstance(first, RMSNorm) or not isinstance(second, RMSNorm):
        return None
    linears = attention.qkv, attention.output, mlp.gate_up, mlp.down
    kernel = kernels.FusedBlockKernel.make(
        [linear.kernel_matrix() for linear in linears],
        [first.weight, second.weight],
        heads=attention.qkv.parts["q"] // attention.head_dim,
        kv_heads=attention.qkv.parts["k"] // attention.head_dim,
        activation=mlp.activation,
        eps=first.eps or 0.0,
        offset=first.offset,
        residual_scale=block.scale,
    )
    return None if kernel is None else FusedBlock(attention, kernel)

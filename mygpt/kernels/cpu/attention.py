"""Attention over the cache as a function of tensors.

Shapes: B sequences, T new tokens, H query heads, K key-value heads, S slots, D dimensions per head, R rotated ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mygpt.kernels.cpu.library import Library, ready
from mygpt.kernels.cpu.ops import MOST_NUMBERS
from mygpt.kernels.cpu.structs import MAX_DIM, MAX_GROUP, TYPES, AttentionArgs, address


class CacheStep(NamedTuple):
    """New tokens of each sequence, and the cache of a layer that they are written to, and attend to.

    Attributes:
        keys, values: (B, K, S, D).
        slots: the token at position p stands in slot p modulo this.
        window: how many tokens one attends to, itself included; 0: all.
        positions: (B, T) int64 of the new tokens. With T > 1 each has a slot of its own.
        end: the position after the last of them.
        tables: cos and sin (B, T, 1, R) as `mygpt.model.rope.rotate` takes them; None: nothing is rotated.
        scale: of scores; None is 1 / sqrt(D).
    """

    keys: Tensor
    values: Tensor
    slots: int
    window: int
    positions: Tensor
    end: int
    tables: tuple[Tensor, Tensor] | None
    scale: float | None


def attend(qk: Tensor, v: Tensor, step: CacheStep) -> Tensor | None:
    """Rotate q and k, write k and v to the cache, attend to what it holds then.

    Args:
        qk: (B, T, H + K, D), not yet rotated.
        v: (B, T, K, D).
        step: of the same tokens.

    Returns:
        (B, T, H, D); None, and nothing is done, where no kernel takes it.
    """
    library = ready(qk)
    kv_heads = step.keys.shape[1]
    heads = qk.shape[2] - kv_heads
    if library is None or not takes_tokens(library, qk, step) or heads > MAX_GROUP * kv_heads:
        return None
    args = attention_args(heads, step)
    qk, v = _evenly_apart(qk), _evenly_apart(v)
    y = qk.new_empty((*qk.shape[:2], heads, args.dim))
    args.q, args.v, args.y = qk.data_ptr(), v.data_ptr(), y.data_ptr()
    args.k = args.q + heads * args.dim * qk.element_size()
    args.q_stride = args.k_stride = qk.stride(0) // args.tokens
    args.v_stride = v.stride(0) // args.tokens
    library.c.mygpt_attention(torch.get_num_threads(), args)
    return y


def takes_tokens(library: Library, x: Tensor, step: CacheStep) -> bool:
    """Whether kernels attend for tokens x (B, T, …). Several of each sequence take tiles."""
    dim = step.keys.shape[-1]
    if step.keys.dtype is not x.dtype or dim > MAX_DIM:
        return False
    if x.shape[1] == 1:
        return dim % 16 == 0 and x.numel() <= MOST_NUMBERS
    return x.dtype is torch.bfloat16 and dim % 32 == 0 and not step.window and library.has_tiles


def _evenly_apart(x: Tensor) -> Tensor:
    """x (B, T, H, D) with tokens evenly apart, and dense in themselves, as they are in a part of a wider tensor."""
    even = x.shape[1] == 1 or x.stride(0) == x.shape[1] * x.stride(1)
    return x if even and x.stride()[2:] == (x.shape[3], 1) else x.contiguous()


def attention_args(heads: int, step: CacheStep) -> AttentionArgs:
    """What the C side is told of the cache and the new tokens' positions; `heads` are the queries'."""
    keys = step.keys
    cos, sin = step.tables or (None, None)
    batch, kv_heads, _, dim = keys.shape
    sequence_stride, head_stride, _, _ = keys.stride()
    return AttentionArgs(
        cos=address(cos),
        sin=address(sin),
        keys=keys.data_ptr(),
        values=step.values.data_ptr(),
        positions=step.positions.data_ptr(),
        sequence_stride=sequence_stride,
        head_stride=head_stride,
        batch=batch,
        tokens=step.positions.shape[1],
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        rotated=0 if cos is None else cos.shape[-1],
        slots=step.slots,
        seen=min(step.end, step.slots),
        type=TYPES[keys.dtype],
        scale=dim**-0.5 if step.scale is None else step.scale,
    )

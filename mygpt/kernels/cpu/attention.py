"""Attention over the cache as functions of tensors.

Shapes: B sequences, T new tokens, H query heads, K key-value heads, S slots, D dimensions per head, R rotated ones.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_long, c_void_p

import torch
from torch import Tensor

from mygpt.kernels.cpu.ops import TYPES, fits, fits_many, has_tiles, loaded

MAX_DIM, MAX_GROUP = 256, 64  # attention.c's


class Attention(ctypes.Structure):
    """`Attention` of vectors.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "v", "cos", "sin", "keys", "values", "positions", "y")),
        *((name, c_long) for name in ("q_stride", "k_stride", "v_stride", "sequence_stride", "head_stride")),
        *(
            (name, c_long)
            for name in ("batch", "tokens", "heads", "kv_heads", "dim", "rotated", "slots", "seen", "type")
        ),
        ("scale", c_float),
    )


def attends(qk: Tensor, keys: Tensor, window: int) -> bool:
    """Whether `attend` takes qk (B, T, H + K, D), with a cache's keys (B, K, S, D) and the layer's window (0: none)."""
    return attends_tokens(qk, keys, window) and qk.shape[2] <= MAX_GROUP * keys.shape[1]


def attends_tokens(x: Tensor, keys: Tensor, window: int) -> bool:
    """The same of tokens x (B, T, …). Several of each sequence take the matrix unit."""
    dim = keys.shape[-1]
    if not fits_many(x) or keys.dtype is not x.dtype or dim > MAX_DIM:
        return False
    if x.shape[1] == 1:
        return dim % 16 == 0 and fits(x)
    return x.dtype is torch.bfloat16 and dim % 32 == 0 and not window and has_tiles()


def attend(qk: Tensor, v: Tensor, call: Attention) -> Tensor:
    """New tokens of each sequence: rotate q and k, write k and v to the cache, attend to what it holds then.

    Args:
        qk: (B, T, H + K, D).
        v: (B, T, K, D).
        call: from `attention_call`. With T > 1 the cache is one in which each token has a slot of its own.

    Returns:
        (B, T, H, D).
    """
    heads, dim = call.heads, call.dim
    qk, v = _tokens_in_a_row(qk), _tokens_in_a_row(v)
    y = qk.new_empty((*qk.shape[:2], heads, dim))
    call.q, call.v, call.y = qk.data_ptr(), v.data_ptr(), y.data_ptr()
    call.k = call.q + heads * dim * qk.element_size()
    call.q_stride = call.k_stride = qk.stride(0) // call.tokens
    call.v_stride = v.stride(0) // call.tokens
    kernel = loaded().mygpt_attention if call.tokens == 1 else loaded().mygpt_attend_many
    kernel(torch.get_num_threads(), ctypes.byref(call))
    return y


def _tokens_in_a_row(x: Tensor) -> Tensor:
    """x (B, T, H, D) with tokens evenly apart, and dense in themselves, as they are in a part of a wider tensor."""
    even = x.shape[1] == 1 or x.stride(0) == x.shape[1] * x.stride(1)
    return x if even and x.stride()[2:] == (x.shape[3], 1) else x.contiguous()


def attention_call(
    heads: int,
    tables: tuple[Tensor, Tensor] | None,
    cache: tuple[Tensor, Tensor],
    slots: int,
    positions: Tensor,
    end: int,
    scale: float | None,
) -> Attention:
    """What the C side is told of the cache and the tokens' places.

    Args:
        heads: of the queries.
        tables: cos and sin (B, T, 1, R) as `mygpt.model.rope.rotate` takes them; None: nothing is rotated.
        cache: keys and values (B, K, S, D).
        slots: the token at position p stands in slot p modulo this.
        positions: (B, T) int64 of the new tokens.
        end: the place after the last of them.
        scale: of scores; 1 / sqrt(D) by default.
    """
    keys, values = cache
    batch, kv_heads, _, dim = keys.shape
    sequence_stride, head_stride, _, _ = keys.stride()
    call = Attention(
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        positions=positions.data_ptr(),
        sequence_stride=sequence_stride,
        head_stride=head_stride,
        batch=batch,
        tokens=positions.shape[1],
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        slots=slots,
        seen=min(end, slots),
        type=TYPES[keys.dtype],
        scale=dim**-0.5 if scale is None else scale,
    )
    if tables is not None:
        call.cos, call.sin, call.rotated = tables[0].data_ptr(), tables[1].data_ptr(), tables[0].shape[-1]
    return call

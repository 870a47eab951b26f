"""Attention: projections, rotary embedding, cache, masks.

Shapes: B sequences, T tokens, S tokens to attend to, C hidden size, H query heads, K key-value heads,
D dimensions per head. Head counts come from the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.config import Config
from mygpt.model.forward_context import ForwardContext, Mask
from mygpt.model.kv_cache import LayerCache, LayerShape
from mygpt.model.linear import FusedLinear, Linear
from mygpt.model.norm import make_norm
from mygpt.model.rope import rotate


class Attention(nn.Module):
    """Multi-head attention with H query heads to K key-value heads (K = H, 1 < K < H, or 1)."""

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.window(index)
        self.scale = _scale(config, index)
        self.softcap = config.attention_softcap
        self.clip = config.clip_qkv
        self.rotates = config.rotates(index)
        # What the kernels can do: attention, and with nothing before it either, a whole block.
        self.has_kernel = self.softcap is None and config.query_scaling is None and not config.attention_sinks
        self.is_plain = self.has_kernel and config.qk_norm == "none" and self.clip is None
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.qkv = FusedLinear(
            config.hidden_size, {"q": queries, "k": keys, "v": keys}, bias=config.attention_bias
        )
        self.qk_norm = _make_qk_norm(config)
        self.sinks = nn.Parameter(torch.empty(config.n_heads)) if config.attention_sinks else None
        self.output = Linear(queries, config.hidden_size, bias=config.attention_output_bias)

    @property
    def cache_shape(self) -> LayerShape:
        """What this layer caches of a token."""
        return LayerShape(self.qkv.parts["k"] // self.head_dim, self.head_dim, self.window)

    def forward(self, x: Tensor, context: ForwardContext, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        qkv = self.qkv(x)
        if self.clip is not None:
            qkv = qkv.clamp(-self.clip, self.clip)
        heads = qkv.view(*x.shape[:2], -1, self.head_dim)
        kv_heads = self.qkv.parts["k"] // self.head_dim
        qk, v = heads[:, :, :-kv_heads], heads[:, :, -kv_heads:]
        if self.qk_norm is not None:
            qk = self.qk_norm(qk, kv_heads)
        y = None
        if cache is not None and self.has_kernel:
            y = kernels.attend(qk, v, self.cache_step(context, cache))
        if y is None:
            y = self._attend(qk, v, context, cache)
        output: Tensor = self.output(y.flatten(2))
        return output

    def cache_step(self, context: ForwardContext, cache: LayerCache) -> kernels.CacheStep:
        """The new tokens and this layer's cache, as the kernels take them."""
        return kernels.CacheStep(
            cache.keys,
            cache.values,
            cache.size,
            self.window,
            context.positions,
            context.end,
            self._tables(context),
            self.scale,
        )

    def _tables(self, context: ForwardContext) -> tuple[Tensor, Tensor] | None:
        return (context.window_rotary if self.window else context.rotary) if self.rotates else None

    def _attend(self, qk: Tensor, v: Tensor, context: ForwardContext, cache: LayerCache | None) -> Tensor:
        """Rotate, write to the cache, attend: qk (B, T, H + K, D) and v (B, T, K, D) to (B, T, H, D)."""
        tables = self._tables(context)
        if tables is not None:
            qk = rotate(qk, *tables)  # together: half the operations
        kv_heads = v.shape[2]
        q, k = qk[:, :, :-kv_heads], qk[:, :, -kv_heads:]
        if context.query_scale is not None:
            q = q * context.query_scale
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, context)
        mask = context.masks[self.window]
        if self.sinks is not None:
            return attend_with_sinks(q, k, v, mask, self.scale, self.sinks)
        if self.softcap is None:
            return attend(q, k, v, mask, self.scale)
        return attend_softcapped(q, k, v, mask, self.scale, self.softcap)


def _scale(config: Config, index: int) -> float | None:
    """What a layer multiplies its scores by; None is 1 / sqrt(D)."""
    if not config.attention_scale_by_layer:
        return config.attention_scale
    return (config.attention_scale or config.head_dim**-0.5) / (index + 1)


class QKNorm(nn.Module):
    """A norm of queries and of keys before they are rotated (arXiv:2010.04245): head by head, or over all of them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        by_head = config.qk_norm == "head"
        self.by_head = by_head
        self.q = make_norm(config, config.head_dim if by_head else config.n_heads * config.head_dim)
        self.k = make_norm(config, config.head_dim if by_head else config.n_kv_heads * config.head_dim)

    def forward(self, qk: Tensor, kv_heads: int) -> Tensor:
        """qk (B, T, H + K, D) to the same shape."""
        q, k = qk[:, :, :-kv_heads], qk[:, :, -kv_heads:]
        if self.by_head:
            return torch.cat((self.q(q), self.k(k)), dim=2)
        normed = torch.cat((self.q(q.flatten(2)), self.k(k.flatten(2))), dim=-1)
        return normed.view(qk.shape)


class OwnHeadNorm(nn.Module):
    """Layer norms of queries and of keys before they are rotated, by weights of each head (StableLM 2, Command R+).

    `weight` ((H + K) D,) is filled head by head: `parts` are the heads' rows of it, as a `FusedLinear`'s.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        counts = {"q_norm": config.n_heads, "k_norm": config.n_kv_heads}
        self.parts = {
            f"{name}.{head}": config.head_dim for name, count in counts.items() for head in range(count)
        }
        self.weight = nn.Parameter(torch.empty(sum(self.parts.values())))
        self.eps = config.norm_eps

    def forward(self, qk: Tensor, kv_heads: int) -> Tensor:
        """qk (B, T, H + K, D) to the same shape."""
        normed = F.layer_norm(qk.float(), qk.shape[-1:], eps=self.eps)
        return (normed * self.weight.float().view(qk.shape[-2:])).type_as(qk)


def _make_qk_norm(config: Config) -> nn.Module | None:
    if config.qk_norm == "none":
        return None
    return OwnHeadNorm(config) if config.qk_norm == "own_head" else QKNorm(config)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T) v: q (B, T, H, D) over k and v (B, K, S, D) to (B, T, H, D).

    `scale` is 1 / sqrt(D) by default. Values may have another width than keys.
    """
    batch_size, new, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    if new == 1:
        # The query heads of a group stand as if they were tokens: no key is repeated, no row is masked twice.
        q = q.reshape(batch_size, kv_heads, heads // kv_heads, head_dim)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.allowed, scale=scale)
        return y.reshape(batch_size, 1, heads, -1)
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k,
        v,
        attn_mask=mask.allowed,
        is_causal=mask.causal,
        scale=scale,
        enable_gqa=heads != kv_heads,
    )
    return y.transpose(1, 2)


def attend_softcapped(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None, softcap: float
) -> Tensor:
    """As `attend`, with scores held within softcap by tanh (arXiv:2408.00118), which no fused kernel here does."""
    scores = _scores(q, k, scale)
    scores = _masked(softcap * (scores / softcap).tanh(), mask)
    return _weighted(scores.softmax(-1, dtype=torch.float32), v)


def attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None, sinks: Tensor
) -> Tensor:
    """As `attend`, with a score per query head, `sinks` (H,), that joins the softmax and brings no value.

    The sink's weight goes to no token, so those of the tokens sum to less than 1 (arXiv:2508.10925).
    """
    if q.shape[1] > 1:
        return _attend_with_sink_key(q, k, v, mask, scale, sinks)
    scores = _masked(_scores(q, k, scale), mask)
    sink = sinks.view(1, k.shape[1], -1, 1, 1).expand(*scores.shape[:-1], 1)
    weights = torch.cat((scores, sink), dim=-1).softmax(-1, dtype=torch.float32)
    return _weighted(weights[..., :-1], v)


def _attend_with_sink_key(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None, sinks: Tensor
) -> Tensor:
    """The same by a fused kernel: for many queries several times as fast, for one it would copy the cache.

    The sink is one more key, whose value is 0. It is 1 in one more dimension, where each query holds its head's
    sink; 7 more of nothing, because kernels want a multiple of 8.
    """
    batch_size, new, heads, head_dim = q.shape
    scale = head_dim**-0.5 if scale is None else scale
    q = torch.cat((q, (sinks / scale).view(1, 1, heads, 1).expand(batch_size, new, heads, 1)), dim=-1)
    q, k, v = F.pad(q, (0, 7)), F.pad(k, (0, 8, 0, 1)), F.pad(v, (0, 8, 0, 1))
    k[:, :, -1, head_dim] = 1
    allowed = _allowed(mask, new, q.device)
    if allowed is not None:
        allowed = F.pad(allowed, (0, 1), value=True)
    return attend(q, k, v, Mask(allowed), scale)[..., :head_dim]


def _scores(q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    """scale q k^T, grouped by key-value head: (B, K, H / K, T, S)."""
    batch_size, new, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    # As in `attend`, the query heads of a group stand as if they were tokens: no key is repeated.
    rows = q.view(batch_size, new, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
    scores = rows @ k.transpose(-1, -2) * (head_dim**-0.5 if scale is None else scale)
    return scores.view(batch_size, kv_heads, heads // kv_heads, new, -1)


def _masked(scores: Tensor, mask: Mask) -> Tensor:
    """Grouped scores, minus infinity where the query must not look."""
    allowed = _allowed(mask, scores.shape[-2], scores.device)
    return scores if allowed is None else scores.masked_fill(~allowed.unsqueeze(2), -torch.inf)


def _allowed(mask: Mask, new: int, device: torch.device) -> Tensor | None:
    """What each of `new` queries may see, written out: (B, 1, T, S), None for all."""
    if mask.causal:
        return torch.ones(new, new, dtype=torch.bool, device=device).tril()[None, None]
    return mask.allowed


def _weighted(weights: Tensor, v: Tensor) -> Tensor:
    """The values (B, K, S, D) by grouped weights (B, K, H / K, T, S): (B, T, H, D)."""
    y = weights.to(v.dtype).flatten(2, 3) @ v
    return y.view(*weights.shape[:-1], -1).permute(0, 3, 1, 2, 4).flatten(2, 3)

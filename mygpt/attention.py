"""Attention: projections, rotation, cache, and who looks at whom.

Shapes: B sequences, T tokens, S tokens to attend to, C hidden size, H query heads, K key-value heads,
D dimensions per head. Head counts come from the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mygpt import kernels
from mygpt.cache import LayerCache
from mygpt.config import Config
from mygpt.context import Context, Mask
from mygpt.linear import FusedLinear, Linear
from mygpt.norm import EachHeadLayerNorm, make_norm
from mygpt.rope import rotate


class Attention(nn.Module):
    """Multi-head attention with H query heads to K key-value heads (K = H, 1 < K < H, or 1)."""

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.windows[index]
        self.scale = config.attention_scale
        self.softcap = config.attention_softcap
        self.clip = config.clip_qkv
        self.rotates = config.rotated_layers[index]
        self.is_plain = config.qk_norm == "none" and self.clip is None and self.softcap is None
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.qkv = FusedLinear(
            config.hidden_size, {"q": queries, "k": keys, "v": keys}, bias=config.attention_bias
        )
        self.qk_norm = QKNorm(config) if config.qk_norm != "none" else None
        self.output = Linear(queries, config.hidden_size, bias=config.attention_output_bias)

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        qkv = self.qkv(x)
        if self.clip is not None:
            qkv = qkv.clamp(-self.clip, self.clip)
        heads = qkv.view(*x.shape[:2], -1, self.head_dim)
        kv_heads = self.qkv.slots["k"] // self.head_dim
        qk, v = heads[:, :, :-kv_heads], heads[:, :, -kv_heads:]
        if self.qk_norm is not None:
            qk = self.qk_norm(qk, kv_heads)
        if cache is not None and self.softcap is None and kernels.attends(qk, cache.keys):
            y = kernels.attend(qk, v, self.kernel_call(context, cache))
        else:
            y = self._attend(qk, v, context, cache)
        output: Tensor = self.output(y.flatten(2))
        return output

    def kernel_call(self, context: Context, cache: LayerCache) -> kernels.Attention:
        """This layer's places and sizes, as the kernels take them."""
        return kernels.attention_call(
            self.qkv.slots["q"] // self.head_dim,
            self._tables(context),
            (cache.keys, cache.values),
            cache.size,
            context.positions,
            context.end,
            self.scale,
        )

    def _tables(self, context: Context) -> tuple[Tensor, Tensor] | None:
        return (context.window_rotary if self.window else context.rotary) if self.rotates else None

    def _attend(self, qk: Tensor, v: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """Rotate, write to the cache, attend: qk (B, T, H + K, D) and v (B, T, K, D) to (B, T, H, D)."""
        tables = self._tables(context)
        if tables is not None:
            qk = rotate(qk, *tables)  # together: half the operations
        kv_heads = v.shape[2]
        q, k = qk[:, :, :-kv_heads], qk[:, :, -kv_heads:]
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, context)
        mask = context.masks[self.window]
        if self.softcap is None:
            return attend(q, k, v, mask, self.scale)
        return attend_softcapped(q, k, v, mask, self.scale, self.softcap)


class QKNorm(nn.Module):
    """A norm of queries and of keys before they are rotated (arXiv:2010.04245): head by head, or over all of them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.by_head = config.qk_norm != "width"
        self.q = self._make(config, config.n_heads)
        self.k = self._make(config, config.n_kv_heads)

    @staticmethod
    def _make(config: Config, heads: int) -> nn.Module:
        if config.qk_norm == "each_head":
            return EachHeadLayerNorm(heads, config.head_dim, config.norm_eps)
        return make_norm(config, config.head_dim if config.qk_norm == "head" else heads * config.head_dim)

    def forward(self, qk: Tensor, kv_heads: int) -> Tensor:
        """qk (B, T, H + K, D) to the same shape."""
        q, k = qk[:, :, :-kv_heads], qk[:, :, -kv_heads:]
        if self.by_head:
            return torch.cat((self.q(q), self.k(k)), dim=2)
        normed = torch.cat((self.q(q.flatten(2)), self.k(k.flatten(2))), dim=-1)
        return normed.view(qk.shape)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None = None) -> Tensor:
    """softmax(scale q k^T) v: q (B, T, H, D) over k and v (B, K, S, D) to (B, T, H, D).

    `scale` is 1 / sqrt(D) by default.
    """
    batch_size, new, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    if new == 1:
        # The query heads of a group stand as if they were tokens: no key is repeated, no row is masked twice.
        q = q.reshape(batch_size, kv_heads, heads // kv_heads, head_dim)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.allowed, scale=scale)
        return y.reshape(batch_size, 1, heads, head_dim)
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
    batch_size, new, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.view(batch_size, new, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)  # (B, K, H / K, T, D)
    scores = grouped @ k.unsqueeze(2).transpose(-1, -2) * (head_dim**-0.5 if scale is None else scale)
    scores = softcap * (scores / softcap).tanh()
    allowed = mask.allowed
    if mask.causal:
        allowed = torch.ones(new, new, dtype=torch.bool, device=q.device).tril()[None, None]
    if allowed is not None:
        scores = scores.masked_fill(~allowed.unsqueeze(2), -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
    y: Tensor = weights @ v.unsqueeze(2)
    return y.permute(0, 3, 1, 2, 4).reshape(batch_size, new, heads, head_dim)

"""Multi-head latent attention (MLA; DeepSeek-V2, arXiv:2405.04434, section 2.1).

Shapes: B sequences, T tokens, S tokens to attend to, C hidden size, H heads, L dimensions of a latent; a head's
queries and keys have N dimensions without rotary embedding (nope) and R with it (rope), its values D. Head counts
come from the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mygpt.model.attention import attend
from mygpt.model.config import Config
from mygpt.model.forward_context import ForwardContext, Mask
from mygpt.model.kv_cache import LayerCache, LayerShape
from mygpt.model.linear import Linear
from mygpt.model.rope import rotate

# Up to so many tokens (a draft's) attend to the latents themselves. For more, expanding all latents is less work.
FEW = 16


class LatentAttention(nn.Module):
    """Keys and values of all heads are projections of one latent per token. Only L + R numbers per token are cached.

    x ─┬─ q ──────────────────────────────────────────────── attention ─ output
       └─ kv_down ─┬─ norm ─ latent ─┬─ key_up ─ nope keys ────┤
                   │                 └─ value_up ─ values ─────┤
                   └─ rotation ─ the rotated key of all heads ─┘
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        assert config.mla is not None
        assert config.attention_scale is not None, "the family computes the scale"
        mla, heads, bias = config.mla, config.n_heads, config.attention_bias
        self.mla = mla
        self.scale = config.attention_scale
        self.window = config.window(index)
        self.q = make_query_projection(config)
        self.kv_down = Linear(config.hidden_size, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=bias)
        self.kv_norm = nn.RMSNorm(mla.kv_lora_rank, eps=mla.norm_eps)
        self.key_up = Linear(mla.kv_lora_rank, heads * mla.qk_nope_head_dim, bias=False)
        self.value_up = Linear(mla.kv_lora_rank, heads * mla.v_head_dim, bias=False)
        self.output = Linear(heads * mla.v_head_dim, config.hidden_size, config.attention_output_bias)

    @property
    def cache_shape(self) -> LayerShape:
        """What this layer caches of a token. The values are a part of the keys."""
        return LayerShape(1, self.mla.kv_lora_rank + self.mla.qk_rope_head_dim, value_dim=0)

    def forward(self, x: Tensor, context: ForwardContext, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        nope_dim, rope_dim = self.mla.qk_nope_head_dim, self.mla.qk_rope_head_dim
        q_nope, q_rope = (
            self.q(x).unflatten(-1, (-1, nope_dim + rope_dim)).split((nope_dim, rope_dim), dim=-1)
        )
        kv, k_rope = self.kv_down(x).unsqueeze(2).split((self.mla.kv_lora_rank, rope_dim), dim=-1)
        rotated = rotate(torch.cat((q_rope, k_rope), dim=2), *context.rotary)  # together: half the operations
        q_rope, k_rope = rotated[:, :, :-1], rotated[:, :, -1:]
        kept = torch.cat((self.kv_norm(kv), k_rope), dim=-1).transpose(1, 2)
        if cache is not None:
            kept, _ = cache.update(kept, kept[..., :0], context)
        few = cache is not None and x.shape[1] <= FEW
        form = self._attend_latents if few else self._attend_expanded
        output: Tensor = self.output(form(q_nope, q_rope, kept, context.masks[self.window]).flatten(2))
        return output

    def _attend_expanded(self, q_nope: Tensor, q_rope: Tensor, kept: Tensor, mask: Mask) -> Tensor:
        """Queries (B, T, H, N) and (B, T, H, R) over keys and values made from `kept` (B, 1, S, L + R).

        For many tokens: scores are sums over N + R dimensions and values have D, not L + R and L.
        """
        rank = self.mla.kv_lora_rank
        latents, k_rope = kept[:, 0, :, :rank], kept[..., rank:]
        k = self.key_up(latents).unflatten(-1, (-1, self.mla.qk_nope_head_dim)).transpose(1, 2)
        v = self.value_up(latents).unflatten(-1, (-1, self.mla.v_head_dim)).transpose(1, 2)
        k = torch.cat((k, k_rope.expand(-1, k.shape[1], -1, -1)), dim=-1)
        return attend(torch.cat((q_nope, q_rope), dim=-1), k, v, mask, self.scale)

    def _attend_latents(self, q_nope: Tensor, q_rope: Tensor, kept: Tensor, mask: Mask) -> Tensor:
        """As `_attend_expanded`, over the latents themselves, as one key-value head. For few tokens.

        q (key_up latent) = (q key_up) latent, and sum(weight (value_up latent)) = value_up sum(weight latent): so
        no cached token is expanded.
        """
        mla = self.mla
        key_up = self.key_up.weight.view(-1, mla.qk_nope_head_dim, mla.kv_lora_rank)  # (H, N, L)
        value_up = self.value_up.weight.view(-1, mla.v_head_dim, mla.kv_lora_rank)  # (H, D, L)
        size, heads = q_nope.shape[:2], q_nope.shape[2]
        q = torch.bmm(q_nope.flatten(0, 1).transpose(0, 1), key_up)  # (H, B T, L)
        q = torch.cat((q.transpose(0, 1).view(*size, heads, mla.kv_lora_rank), q_rope), dim=-1)
        y = attend(q, kept, kept[..., : mla.kv_lora_rank], mask, self.scale)  # (B, T, H, L)
        y = torch.bmm(y.flatten(0, 1).transpose(0, 1), value_up.transpose(1, 2))  # (H, B T, D)
        return y.transpose(0, 1).view(*size, heads, mla.v_head_dim)


class LowRankLinear(nn.Module):
    """up(norm(down(x))): a projection of low rank."""

    def __init__(self, width: int, rank: int, rows: int, *, bias: bool, norm_eps: float) -> None:
        super().__init__()
        self.down = Linear(width, rank, bias=bias)
        self.norm = nn.RMSNorm(rank, eps=norm_eps)
        self.up = Linear(rank, rows, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, width) to (…, rows)."""
        y: Tensor = self.up(self.norm(self.down(x)))
        return y


def make_query_projection(config: Config) -> nn.Module:
    """The projection from the hidden size to all heads' queries, of full or low rank."""
    mla = config.mla
    assert mla is not None
    rows = config.n_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    if not mla.q_lora_rank:
        return Linear(config.hidden_size, rows, bias=False)
    bias, norm_eps = config.attention_bias, mla.norm_eps
    return LowRankLinear(config.hidden_size, mla.q_lora_rank, rows, bias=bias, norm_eps=norm_eps)

"""The model: single-device code that knows of no placement and no model's name.

Shapes: B sequences, T tokens, S tokens to attend to, C hidden size, H query heads, K key-value heads,
D dimensions per head, R rotated dimensions, V vocabulary. Head counts come from the weights, so that the
same code runs on a shard of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mygpt.cache import KVCache, LayerCache
from mygpt.config import Activation, Config
from mygpt.context import Context, Mask, make_masks
from mygpt.linear import Embedding, FusedLinear, Linear, linear
from mygpt.rope import RotaryEmbedding, rotate


class GPT(nn.Module):
    """A decoder-only transformer.

    ids ── embed ── layer 1 ── … ── layer N ── norm ── head ── logits
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        block = ParallelBlock if config.residual == "parallel" else Block
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(block(config, i) for i in range(config.n_layers))
        self.norm = make_norm(config)
        # A tied head has no weight of its own, so that nothing can part the two.
        self.head = (
            None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.rope = RotaryEmbedding(config.rope)

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        last: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> Tensor:
        """Logits of the tokens `ids` (B, T), which follow what `cache` holds of each sequence.

        The cache is written; its lengths are the caller's to advance, who alone knows what is padding.

        Args:
            ids: token ids, padded at the right.
            cache: the tokens before; without one, `ids` are the whole sequences.
            last: (B,) the one place of T whose logits are wanted of each sequence.
            lengths: the sequences' whole lengths, where they are not those after this call.

        Returns:
            (B, T, V), or (B, V) with `last`.
        """
        x = self.embed(ids)
        context = self._context(ids, cache, last, lengths, x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, context, cache.layers[i] if cache else None)
        if last is not None:
            x = x[torch.arange(len(x), device=x.device), last]
        x = self.norm(x)
        logits: Tensor = linear(x, self.embed.weight) if self.head is None else self.head(x)
        return logits

    def _context(
        self,
        ids: Tensor,
        cache: KVCache | None,
        last: Tensor | None,
        lengths: list[int] | None,
        dtype: torch.dtype,
    ) -> Context:
        batch_size, new = ids.shape
        starts = cache.lengths if cache else [0] * batch_size
        positions = torch.arange(new, device=ids.device) + torch.tensor(starts, device=ids.device)[:, None]
        ends = positions[:, -1:] + 1 if last is None else positions.gather(1, last[:, None]) + 1
        lengths = lengths or [start + new for start in starts]
        cos, sin = self.rope(positions, torch.tensor(lengths), dtype)
        masks = make_masks({*self.config.windows}, positions, starts, cache.slots if cache else None)
        start = starts[0] if min(starts) == max(starts) else None
        return Context(positions, ends, start, max(starts) + new, cos, sin, masks)


class Block(nn.Module):
    """Attention, then the MLP, each added to the residual stream.

    x ─┬─ norm ─ attention ─(+)─┬─ norm ─ MLP ─(+)─
       └─────────────────────┘  └───────────────┘
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, index)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config)

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        x = x + self.attention(self.attention_norm(x), context, cache)
        x = x + self.mlp(self.mlp_norm(x))
        return x


class ParallelBlock(nn.Module):
    """Attention and MLP side by side (GPT-J's formulation), after one norm each or a shared one.

    x ─┬─ norm ─ attention ─(+)─(+)─
       ├─ norm ─ MLP ────────┘   │
       └─────────────────────────┘
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, index)
        self.mlp_norm = None if config.shared_norm else make_norm(config)
        self.mlp = make_mlp(config)

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        normed = self.attention_norm(x)
        attended = self.attention(normed, context, cache)
        if self.mlp_norm is not None:
            normed = self.mlp_norm(x)
        y: Tensor = self.mlp(normed) + attended + x
        return y


class Attention(nn.Module):
    """Multi-head attention with H query heads to K key-value heads (K = H, 1 < K < H, or 1)."""

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.windows[index]
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.qkv = FusedLinear(
            config.hidden_size, {"q": queries, "k": keys, "v": keys}, bias=config.attention_bias
        )
        self.head_norm = HeadNorm(config) if config.head_norm else None
        self.output = Linear(queries, config.hidden_size, bias=config.attention_output_bias)

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        heads = self.qkv(x).view(*x.shape[:2], -1, self.head_dim)
        kv_heads = self.qkv.slots["k"] // self.head_dim
        qk, v = heads[:, :, :-kv_heads], heads[:, :, -kv_heads:]
        if self.head_norm is not None:
            qk = self.head_norm(qk, kv_heads)
        qk = rotate(qk, context.cos, context.sin)  # together: half the operations
        q, k = qk[:, :, :-kv_heads], qk[:, :, -kv_heads:]
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, context)
        y: Tensor = self.output(attend(q, k, v, context.masks[self.window]).flatten(2))
        return y


class HeadNorm(nn.Module):
    """RMS norm over each query and each key head, before they are rotated (arXiv:2010.04245)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.q = nn.RMSNorm(config.head_dim, eps=config.norm_eps)
        self.k = nn.RMSNorm(config.head_dim, eps=config.norm_eps)

    def forward(self, qk: Tensor, kv_heads: int) -> Tensor:
        """qk (B, T, H + K, D) to the same shape."""
        return torch.cat((self.q(qk[:, :, :-kv_heads]), self.k(qk[:, :, -kv_heads:])), dim=2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: q (B, T, H, D) over k and v (B, K, S, D) to (B, T, H, D)."""
    batch_size, new, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    if new == 1:
        # The query heads of a group stand as if they were tokens: no key is repeated, no row is masked twice.
        q = q.reshape(batch_size, kv_heads, heads // kv_heads, head_dim)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.allowed)
        return y.reshape(batch_size, 1, heads, head_dim)
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=mask.allowed, is_causal=mask.causal, enable_gqa=heads != kv_heads
    )
    return y.transpose(1, 2)


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.intermediate_size
        self.gate_up = FusedLinear(config.hidden_size, {"gate": width, "up": width}, bias=config.mlp_bias)
        self.down = Linear(width, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) to the same shape."""
        gate, up = self.gate_up.split(self.gate_up(x))
        y: Tensor = self.down(self.activation(gate) * up)
        return y


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) to the same shape."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
}


def make_mlp(config: Config) -> nn.Module:
    """The kind of MLP that the configuration asks for."""
    return GatedMLP(config) if config.mlp == "gated" else MLP(config)


def make_norm(config: Config) -> nn.Module:
    """The kind of norm that the configuration asks for, over the hidden size."""
    norm = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return norm(config.hidden_size, eps=config.norm_eps)

"""The model: single-device code that knows of no placement and no model's name.

Shapes: B sequences, T tokens, S tokens to attend to, C hidden size, H query heads, K key-value heads,
D dimensions per head, R rotated dimensions, V vocabulary. Head counts come from the weights, so that the
same code runs on a shard of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mygpt import kernels
from mygpt.attention import Attention
from mygpt.cache import KVCache, LayerCache
from mygpt.config import Config, Residual
from mygpt.context import Context, make_masks
from mygpt.fused import FusedBlock, fuse
from mygpt.linear import Embedding, Linear, linear
from mygpt.mlp import MLP, GatedMLP
from mygpt.moe import MoE
from mygpt.norm import make_norm
from mygpt.rope import RotaryEmbedding


class GPT(nn.Module):
    """A decoder-only transformer.

    ids ── embed ── layer 1 ── … ── layer N ── norm ── head ── logits
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        block = BLOCKS[config.residual]
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(block(config, i) for i in range(config.n_layers))
        self.norm = make_norm(config)
        # A tied head has no weight of its own, so that nothing can part the two.
        self.head = (
            None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size, config.head_bias)
        )
        self.rope = RotaryEmbedding(config.rope)
        self.window_rope = RotaryEmbedding(config.window_rope) if config.window_rope else None

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
        if self.config.embedding_scale != 1:
            x = x * x.new_tensor(self.config.embedding_scale)  # rounded to the model's dtype first
        context = self._context(ids, cache, last, lengths, x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, context, cache.layers[i] if cache else None)
        if last is not None:
            x = x[torch.arange(len(x), device=x.device), last]
        x = self.norm(x)
        logits: Tensor = linear(x, self.embed.weight) if self.head is None else self.head(x)
        return self._finish(logits)

    def _finish(self, logits: Tensor) -> Tensor:
        """What some families do to their logits at the very end."""
        if self.config.logits_scale != 1:
            logits = logits * self.config.logits_scale
        if (cap := self.config.logits_softcap) is not None:
            logits = cap * (logits / cap).tanh()
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
        rotary = self.rope(positions, torch.tensor(lengths), dtype)
        window_rotary = (
            self.window_rope(positions, torch.tensor(lengths), dtype) if self.window_rope else rotary
        )
        masks = make_masks({*self.config.windows}, positions, starts, cache.slots if cache else None)
        start = starts[0] if min(starts) == max(starts) else None
        return Context(positions, ends, start, max(starts) + new, rotary, window_rotary, masks)


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
        self.mlp = make_mlp(config, index)
        self.scale = config.residual_scale
        self.fused: FusedBlock | None = None

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        if cache is not None and (fused := self._fused(x, cache)) is not None:
            return fused(x, context, cache)
        x = torch.add(x, self.attention(self.attention_norm(x), context, cache), alpha=self.scale)
        return torch.add(x, self.mlp(self.mlp_norm(x)), alpha=self.scale)

    def _fused(self, x: Tensor, cache: LayerCache) -> FusedBlock | None:
        """All of it in one call, for one token of each sequence, where there is a kernel for it."""
        if not kernels.fits_step(x, cache.keys):
            return None
        if self.fused is None or not self.fused.is_current():
            self.fused = fuse((self.attention_norm, self.mlp_norm), self.attention, self.mlp, self.scale, x)
        return self.fused


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
        self.mlp = make_mlp(config, index)

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        normed = self.attention_norm(x)
        attended = self.attention(normed, context, cache)
        if self.mlp_norm is not None:
            normed = self.mlp_norm(x)
        y: Tensor = self.mlp(normed) + attended + x
        return y


class PostNormBlock(nn.Module):
    """As `Block`, but the norms stand behind (OLMo 2, arXiv:2501.00656).

    x ─┬─ attention ─ norm ─(+)─┬─ MLP ─ norm ─(+)─
       └─────────────────────┘  └───────────────┘
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.attention = Attention(config, index)
        self.attention_post_norm = make_norm(config)
        self.mlp = make_mlp(config, index)
        self.mlp_post_norm = make_norm(config)

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        x = x + self.attention_post_norm(self.attention(x, context, cache))
        x = x + self.mlp_post_norm(self.mlp(x))
        return x


class SandwichBlock(nn.Module):
    """As `Block`, with norms in front and behind (Gemma 2, arXiv:2408.00118).

    x ─┬─ norm ─ attention ─ norm ─(+)─┬─ norm ─ MLP ─ norm ─(+)─
       └────────────────────────────┘  └──────────────────────┘
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, index)
        self.attention_post_norm = make_norm(config)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config, index)
        self.mlp_post_norm = make_norm(config)

    def forward(self, x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        x = x + self.attention_post_norm(self.attention(self.attention_norm(x), context, cache))
        x = x + self.mlp_post_norm(self.mlp(self.mlp_norm(x)))
        return x


BLOCKS: dict[Residual, type[nn.Module]] = {
    "sequential": Block,
    "parallel": ParallelBlock,
    "post": PostNormBlock,
    "sandwich": SandwichBlock,
}


def make_mlp(config: Config, index: int) -> nn.Module:
    """The kind of MLP that the configuration asks for in a layer."""
    if config.moe is not None and index in config.moe.layers:
        return MoE(config, config.moe)
    return GatedMLP(config) if config.mlp == "gated" else MLP(config)

"""`GPT`, the model: single-device code. It knows no placement and no model's name.

Shapes: B sequences, T tokens, S tokens to attend to, C hidden size, H query heads, K key-value heads,
D dimensions per head, R rotated dimensions, V vocabulary. Head counts come from the weights, so the same code runs on a
shard of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.attention import Attention
from mygpt.model.config import Config, Residual
from mygpt.model.forward_context import ContextBuilder, ForwardContext, ForwardOptions, Step
from mygpt.model.kv_cache import KVCache, LayerCache
from mygpt.model.latent_attention import LatentAttention
from mygpt.model.linear import Embedding, Linear
from mygpt.model.mlp import MLP, make_gated_mlp
from mygpt.model.moe import MoE
from mygpt.model.norm import make_norm
from mygpt.model.rope import RotaryEmbedding

if TYPE_CHECKING:
    from typing_extensions import Unpack


class GPT(nn.Module):
    """A decoder-only transformer.

    ids ── embed ── layer 1 ── … ── layer N ── norm ── head ── logits
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        block = BLOCKS[config.residual]
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.position_embed = (
            Embedding(config.learned_positions, config.hidden_size) if config.learned_positions else None
        )
        self.layers = nn.ModuleList(block(config, i) for i in range(config.n_layers))
        self.norm = make_norm(config)
        # A tied head has no weight of its own, so that nothing can part the two.
        self.head = (
            None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size, config.head_bias)
        )
        self.context_builder = ContextBuilder(config)

    def forward(self, ids: Tensor, cache: KVCache | None = None, **options: Unpack[ForwardOptions]) -> Tensor:
        """Logits of the tokens `ids` (B, T), padded at the right, which follow what `cache` holds of each sequence.

        Without a cache `ids` are the whole sequences. With one it is written; its lengths are the caller's to
        advance, who alone knows what is padding. The options are those of `ForwardOptions`.

        Returns:
            (B, T, V), or (B, V) with `logits_indices`.
        """
        context = self.context_builder(self.step(ids, cache, options))
        x = self.embedded(ids, context)
        x = self.run(range(len(self.layers)), x, context, cache)
        return self.logits(x, options.get("logits_indices"))

    def step(self, ids: Tensor, cache: KVCache | None, options: ForwardOptions) -> Step:
        """What a context builder is told of a forward pass."""
        if unknown := options.keys() - ForwardOptions.__annotations__.keys():
            raise TypeError(f"a forward pass has no option {min(unknown)!r}")
        cached = cache.lengths if cache else [0] * len(ids)
        n_new = ids.shape[1]
        return Step(
            cached,
            n_new,
            cache.slots if cache else None,
            options.get("logits_indices"),
            options.get("sequence_lengths") or [held + n_new for held in cached],
            options.get("speculative", False),
            self.embed.weight.dtype,
        )

    def embedded(self, ids: Tensor, context: ForwardContext) -> Tensor:
        """ids (B, T) to the residual stream (B, T, C)."""
        x: Tensor = self.embed(ids.to(context.positions.device))
        if self.config.embedding_scale != 1:
            x = x * x.new_full((), self.config.embedding_scale)  # rounded to the model's dtype first
        if self.position_embed is not None:
            # Padding may lie past the table.
            x = x + self.position_embed(context.positions.clamp(max=self.config.learned_positions - 1))
        return x

    def run(self, layers: range, x: Tensor, context: ForwardContext, cache: KVCache | None) -> Tensor:
        """The residual stream (B, T, C) through some of the layers."""
        for i in layers:
            x = self.layers[i](x, context, cache.layers[i] if cache else None)
        return x

    def logits(self, x: Tensor, indices: list[int] | None) -> Tensor:
        """The residual stream (B, T, C) to logits (B, T, V), or (B, V) at one index in T of each sequence."""
        if indices is not None:
            x = x[:, 0] if x.shape[1] == 1 else x[torch.arange(len(x)), indices]
        x = self.norm(x)
        logits: Tensor = kernels.linear(x, self.embed.weight) if self.head is None else self.head(x)
        if self.config.logits_scale != 1:
            logits = logits * self.config.logits_scale
        if (cap := self.config.logits_softcap) is not None:
            logits = cap * (logits / cap).tanh()
        return logits

    @property
    def rope(self) -> RotaryEmbedding:
        """The rotary embedding of the layers without a window."""
        return self.context_builder.rope

    def allocate_cache(self, batch_size: int, slots: int, device: torch.device | None = None) -> KVCache:
        """An empty cache, each layer's part beside its weights, or all of it on a device."""
        attentions = [
            cast(Attention | LatentAttention, layer.get_submodule("attention")) for layer in self.layers
        ]
        shapes = [attention.cache_shape for attention in attentions]
        devices = [device or attention.output.device for attention in attentions]
        dtype = self.embed.weight.dtype
        return KVCache(shapes, batch_size, slots, devices, dtype, self.config.context_length)


class Block(nn.Module):
    """Attention, then the MLP, each added to the residual stream.

    x ─┬─ norm ─ attention ─(+)─┬─ norm ─ MLP ─(+)─
       └─────────────────────┘  └───────────────┘
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = make_attention(config, index)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config, index)
        self.scale = config.residual_scale
        # All of it in one call, where `fuse_blocks` found a kernel; None of the call: the kernel does not take such x.
        self.fused: Callable[[Tensor, ForwardContext, LayerCache], Tensor | None] | None = None

    def forward(self, x: Tensor, context: ForwardContext, cache: LayerCache | None) -> Tensor:
        """x (B, T, C) to the same shape."""
        if self.fused is not None and cache is not None:
            y = self.fused(x, context, cache)
            if y is not None:
                return y
        x = torch.add(x, self.attention(self.attention_norm(x), context, cache), alpha=self.scale)
        return torch.add(x, self.mlp(self.mlp_norm(x)), alpha=self.scale)

    # The kernel holds the weights' addresses: weights that were moved, cast or copied need another one.

    def _apply(self, *arguments: Any, **options: Any) -> Block:
        self.fused = None
        moved: Block = super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        return moved

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "fused": None}  # type: ignore[no-untyped-call]


class ParallelBlock(nn.Module):
    """Attention and MLP side by side (GPT-J's formulation), after one norm each or a shared one.

    x ─┬─ norm ─ attention ─(+)─(+)─
       ├─ norm ─ MLP ────────┘   │
       └─────────────────────────┘
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = make_attention(config, index)
        self.mlp_norm = None if config.shared_norm else make_norm(config)
        self.mlp = make_mlp(config, index)

    def forward(self, x: Tensor, context: ForwardContext, cache: LayerCache | None) -> Tensor:
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
        self.attention = make_attention(config, index)
        self.attention_post_norm = make_norm(config)
        self.mlp = make_mlp(config, index)
        self.mlp_post_norm = make_norm(config)

    def forward(self, x: Tensor, context: ForwardContext, cache: LayerCache | None) -> Tensor:
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
        self.attention = make_attention(config, index)
        self.attention_post_norm = make_norm(config)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config, index)
        self.mlp_post_norm = make_norm(config)

    def forward(self, x: Tensor, context: ForwardContext, cache: LayerCache | None) -> Tensor:
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


def make_attention(config: Config, index: int) -> nn.Module:
    """The kind of attention that the configuration asks for in a layer."""
    return Attention(config, index) if config.mla is None else LatentAttention(config, index)


def make_mlp(config: Config, index: int) -> nn.Module:
    """The kind of MLP that the configuration asks for in a layer."""
    if config.moe is not None and index in config.moe.layers:
        return MoE(config, config.moe)
    return make_gated_mlp(config) if config.mlp == "gated" else MLP(config)

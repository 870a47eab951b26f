"""`Config`: the architecture of a model. A family's file reads it from `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope", "divisors"]
Norm = Literal["rms", "rms_one_plus", "layer", "layer_no_bias", "layer_plain"]
Residual = Literal["sequential", "parallel", "post", "sandwich"]
RouterType = Literal["softmax", "grouped_softmax", "sigmoid"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding (rope): the frequencies that rotate the first `dim` dimensions of a head.

    The fields after `original_max_positions` belong to single types; see `rope.py`.
    """

    dim: int  # rotated dimensions per head, even; 0: no layer is rotated
    theta: float = 10_000.0  # base of the wavelengths
    type: RopeType = "default"
    factor: float = 1.0  # the context is this many times longer than in pre-training
    original_max_positions: int = 0  # tokens; the context length of pre-training
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn, longrope: cos and sin are multiplied by it
    truncate: bool = True  # yarn: round the ramp's ends to whole dimensions
    divisors: tuple[float, ...] = ()  # divisors, longrope: one for each of the dim / 2 frequencies
    long_divisors: tuple[float, ...] = ()  # longrope: for sequences longer than original_max_positions


@dataclass(frozen=True)
class QueryScaling:
    """Queries are multiplied by 1 + beta log(1 + floor(position / interval)) (Llama 4)."""

    beta: float
    interval: int  # tokens; the first `interval` queries are not scaled


@dataclass(frozen=True)
class MoEConfig:
    """Sparse mixture of experts: some layers have several small MLPs, and each token runs through a few of them."""

    n_experts: int
    num_experts_per_tok: int
    intermediate_size: int  # width of an expert
    norm_topk_prob: bool  # the weights of a token's experts sum to 1
    layers: tuple[int, ...]  # those with experts; the others have the dense MLP
    shared_intermediate_size: int = 0  # width of the expert that every token runs through; 0: none
    shared_gate: bool = True  # a gate scales the shared expert's output, token by token
    router: RouterType = "softmax"
    router_bias: bool = False
    # Of the routers grouped_softmax and sigmoid:
    n_group: int = 1  # groups of experts, equal in size
    topk_group: int = 1  # groups that a token's experts come from
    routed_scaling_factor: float = 1.0  # multiplies the weights of a token's experts


@dataclass(frozen=True)
class MLAConfig:
    """Multi-head latent attention: keys and values of all heads are made from one latent per token."""

    kv_lora_rank: int  # dimensions of the latent
    qk_nope_head_dim: int  # of a head's queries and keys, not rotated
    qk_rope_head_dim: int  # of a head's queries and keys, rotated; the key is the same for all heads
    v_head_dim: int  # of a head's values
    q_lora_rank: int = 0  # low rank of the query projection; 0: full rank
    norm_eps: float = 1e-6  # of the latents' norms
    interleaved: bool = True  # the file has the two rows of a rotated pair next to each other


@dataclass(frozen=True)
class ClampedSwiGLU:
    """(up + 1) * gate * sigmoid(alpha * gate), with gate at most `limit` and up within plus and minus `limit`."""

    limit: float
    alpha: float


@dataclass(frozen=True)
class Config:
    """What `GPT` is built from. Sizes are those of the whole model, not of a shard."""

    vocab_size: int  # rows of the embedding; may be padded past the tokenizer's ids
    n_layers: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int  # width of the MLP
    context_length: int  # tokens, prompt and answer together
    rope: RopeConfig

    norm: Norm = "rms"
    norm_eps: float = 1e-6
    residual: Residual = "sequential"
    shared_norm: bool = False  # parallel residual only: one norm feeds attention and MLP
    mlp: Literal["gated", "plain"] = "gated"
    moe: MoEConfig | None = None  # replaces the MLP in the layers that it names
    mla: MLAConfig | None = None  # multi-head latent attention instead of the usual
    activation: Activation = "silu"
    clamped_swiglu: ClampedSwiGLU | None = None  # replaces the gated MLP's activation and product
    window_rope: RopeConfig | None = None  # the rope of layers with a window, if it differs
    layer_windows: tuple[int, ...] = ()  # sliding window of each layer, in tokens; 0, or no tuple: none
    unrotated_layers: tuple[int, ...] = ()  # layers without a rotary embedding
    learned_positions: int = 0  # rows of the table of position embeddings; 0: no table
    # Norms of queries and keys: per head with shared weights, per head with its own weights, or over the whole width.
    qk_norm: Literal["none", "head", "own_head", "width"] = "none"
    clip_qkv: float | None = None  # queries, keys and values are clamped to plus and minus this
    attention_softcap: float | None = None  # scores become softcap * tanh(score / softcap)
    query_scaling: QueryScaling | None = None
    attention_sinks: bool = False  # the softmax has one more score, learned for each query head
    attention_bias: bool = False  # of query, key and value
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False  # the head is the embedding matrix
    head_bias: bool = False
    embedding_scale: float = 1.0  # multiplies the embedded tokens
    residual_scale: float = 1.0  # multiplies the outputs of attention and MLP
    attention_scale: float | None = None  # multiplies the scores; None: 1 / sqrt(head_dim)
    attention_scale_by_layer: bool = False  # the scale is divided by the layer's number, from 1
    logits_scale: float = 1.0
    logits_softcap: float | None = None

    def window(self, layer: int) -> int:
        """The sliding window of a layer, 0 where it has none."""
        return self.layer_windows[layer] if self.layer_windows else 0

    @property
    def windows(self) -> tuple[int, ...]:
        """The sliding window of each layer, 0 where it has none."""
        return self.layer_windows or (0,) * self.n_layers

    def rotates(self, layer: int) -> bool:
        """Whether a layer has a rotary embedding."""
        return self.rope.dim > 0 and layer not in self.unrotated_layers

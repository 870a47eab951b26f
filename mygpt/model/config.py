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
    """Rotary position embedding: which frequencies rotate a head's first `dim` dimensions.

    The fields after `original_max_positions` belong to single types; `rope.py` says what each does.
    """

    dim: int  # rotated dimensions per head, even; 0: no layer is rotated
    theta: float = 10_000.0  # base of the geometric series of wavelengths
    type: RopeType = "default"
    factor: float = 1.0  # how many times longer than in pre-training the context is
    original_max_positions: int = 0  # tokens; the context length of pre-training
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn, longrope: cos and sin are multiplied by it
    truncate: bool = True  # yarn: round the ramp's ends to whole dimensions
    divisors: tuple[float, ...] = ()  # divisors, longrope: one for each of the dim / 2 frequencies
    long_divisors: tuple[float, ...] = ()  # longrope: those of sequences longer than the original ones


@dataclass(frozen=True)
class QueryScaling:
    """Queries times 1 + beta log(1 + floor(position / interval)) (Llama 4's): attention stays sharp far out."""

    beta: float
    interval: int  # tokens; the first so many queries stay as they are


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
    qk_nope_head_dim: int  # dimensions of a head's queries and keys that are not rotated
    qk_rope_head_dim: int  # those that are; their key is the same for all heads
    v_head_dim: int  # of a head's values
    q_lora_rank: int = 0  # dimensions that queries are projected through; 0: they are projected directly
    norm_eps: float = 1e-6  # of the latents' norms
    interleaved: bool = True  # in the file, the two rows of a rotated pair stand side by side


@dataclass(frozen=True)
class ClampedSwiGLU:
    """(clamp(up) + 1) * gate * sigmoid(alpha * gate), with gate at most `limit` and up within plus and minus it."""

    limit: float
    alpha: float


@dataclass(frozen=True)
class Config:
    """What `GPT` is built from. Sizes are those of the whole model, whatever the placement."""

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
    moe: MoEConfig | None = None  # in place of the MLP, in the layers that it names
    mla: MLAConfig | None = None  # attention is over latents
    activation: Activation = "silu"
    clamped_swiglu: ClampedSwiGLU | None = None  # in place of the gated MLP's activation and product
    window_rope: RopeConfig | None = None  # of the layers with a window, where theirs is another
    layer_windows: tuple[int, ...] = ()  # tokens that each layer looks back over; 0, or no tuple: all
    unrotated_layers: tuple[int, ...] = ()  # layers without a rotary embedding
    learned_positions: int = 0  # rows of a table of which each token's place adds one to it; 0: no table
    # Of queries and keys: head by head, by the same weights or by each head's own, or over all of them.
    qk_norm: Literal["none", "head", "own_head", "width"] = "none"
    clip_qkv: float | None = None  # queries, keys and values are held within plus and minus this
    attention_softcap: float | None = None  # scores are held within it by tanh
    query_scaling: QueryScaling | None = None  # by the tokens' places
    attention_sinks: bool = False  # a learned score per query head joins the softmax
    attention_bias: bool = False  # of query, key and value
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False  # the head is the embedding matrix
    head_bias: bool = False
    embedding_scale: float = 1.0  # multiplies the embedded tokens
    residual_scale: float = 1.0  # multiplies what attention and MLP add
    attention_scale: float | None = None  # of query times key; by default 1 / sqrt(head_dim)
    attention_scale_by_layer: bool = False  # divided by 1 in the first layer, by 2 in the second, …
    logits_scale: float = 1.0
    logits_softcap: float | None = None

    @property
    def windows(self) -> tuple[int, ...]:
        """The sliding window of each layer, 0 where it has none."""
        return self.layer_windows or (0,) * self.n_layers

    @property
    def rotated_layers(self) -> tuple[bool, ...]:
        """Whether each layer has a rotary embedding."""
        return tuple(
            self.rope.dim > 0 and layer not in self.unrotated_layers for layer in range(self.n_layers)
        )

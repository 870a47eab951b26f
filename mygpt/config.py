"""The architecture of a model, as facts. A family's file reads them out of `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope", "divisors"]
Norm = Literal["rms", "rms_one_plus", "layer", "layer_plain"]
Residual = Literal["sequential", "parallel", "post", "sandwich"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: which frequencies rotate a head's first `dim` dimensions.

    The fields after `original_max_positions` belong to single types; `rope.py` says what each does.
    """

    dim: int  # rotated dimensions per head, even
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
class MoEConfig:
    """Sparse mixtures of experts: in some layers, several small MLPs of which each token runs through a few."""

    n_experts: int
    n_experts_per_token: int
    intermediate_size: int  # width of an expert
    norm_topk_prob: bool  # the chosen experts' weights sum to 1
    layers: tuple[int, ...]  # which have experts; the others have the dense MLP
    shared_intermediate_size: int = 0  # width of an expert that every token runs through, gated; 0: none
    router_bias: bool = False


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
    activation: Activation = "silu"
    clamped_swiglu: ClampedSwiGLU | None = None  # in place of the gated MLP's activation and product
    window_rope: RopeConfig | None = None  # of the layers with a window, where theirs is another
    layer_windows: tuple[int, ...] = ()  # tokens that each layer looks back over; 0, or no tuple: all
    unrotated_layers: tuple[int, ...] = ()  # layers without a rotary embedding
    qk_norm: Literal["none", "head", "width"] = (
        "none"  # of queries and keys: head by head, or over all of them
    )
    clip_qkv: float | None = None  # queries, keys and values are held within plus and minus this
    attention_softcap: float | None = None  # scores are held within it by tanh
    attention_sinks: bool = False  # a learned score per query head joins the softmax
    attention_bias: bool = False  # of query, key and value
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False  # the head is the embedding matrix
    head_bias: bool = False
    embedding_scale: float = 1.0  # multiplies the embedded tokens
    residual_scale: float = 1.0  # multiplies what attention and MLP add
    attention_scale: float | None = None  # of query times key; by default 1 / sqrt(head_dim)
    logits_scale: float = 1.0
    logits_softcap: float | None = None

    @property
    def windows(self) -> tuple[int, ...]:
        """The sliding window of each layer, 0 where it has none."""
        return self.layer_windows or (0,) * self.n_layers

    @property
    def rotated_layers(self) -> tuple[bool, ...]:
        """Whether each layer has a rotary embedding."""
        return tuple(layer not in self.unrotated_layers for layer in range(self.n_layers))

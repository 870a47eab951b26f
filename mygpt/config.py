"""The architecture of a model, as facts. A family's file reads them out of `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn", "divisors"]
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
    attention_factor: float = 1.0  # yarn: cos and sin are multiplied by it
    truncate: bool = True  # yarn: round the ramp's ends to whole dimensions
    divisors: tuple[float, ...] = ()  # divisors: one for each of the dim / 2 frequencies


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

    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    residual: Literal["sequential", "parallel"] = "sequential"
    shared_norm: bool = False  # parallel residual only: one norm feeds attention and MLP
    mlp: Literal["gated", "plain"] = "gated"
    activation: Activation = "silu"
    layer_windows: tuple[int, ...] = ()  # tokens that each layer looks back over; 0, or no tuple: all
    head_norm: bool = False  # RMS norm of each query and key head
    attention_bias: bool = False  # of query, key and value
    attention_output_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False  # the head is the embedding matrix

    @property
    def windows(self) -> tuple[int, ...]:
        """The sliding window of each layer, 0 where it has none."""
        return self.layer_windows or (0,) * self.n_layers

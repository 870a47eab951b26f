"""Tiny random models of every family, one for each switch of its configuration."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SeedOssConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

WINDOW = 10  # tokens
ORIGINAL = 32  # tokens; where the rope types that stretch begin to
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn-mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 8.0, "beta_slow": 2.0},
    "yarn-no-truncate": {**YARN, "truncate": False, "attention_factor": 1.3},
}


@dataclass(frozen=True)
class Variant:
    """A configuration class of transformers and what to change of the tiny default."""

    name: str
    config: type
    changes: dict[str, Any] = field(default_factory=dict)

    def build(self, folder: Path) -> PreTrainedModel:
        """Save a random model in `folder`; returns transformers' model of it."""
        torch.manual_seed(0)
        config = self.config(**{**TINY[self.config], **self.changes})
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms too, which start as 0 and 1
                parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05))
        model.save_pretrained(folder)
        return model

    def __str__(self) -> str:
        return self.name


LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": ORIGINAL,
    }
}
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
COMMON = {
    "vocab_size": 128,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 4 * ORIGINAL,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = {
    **COMMON,
    "intermediate_size": 80,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 40,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}
TINY: dict[type, dict[str, Any]] = {
    LlamaConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    GPTNeoXConfig: {**COMMON, "intermediate_size": 80, "rotary_pct": 0.5},
    FalconConfig: {**COMMON, "ffn_hidden_size": 80},
    MistralConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "sliding_window": WINDOW},
    Qwen2Config: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    Qwen3Config: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 16},
    GemmaConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 16},
    Gemma2Config: {
        **COMMON,
        "intermediate_size": 80,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5,
    },
    Gemma3TextConfig: {
        **COMMON,
        "num_hidden_layers": 3,
        "intermediate_size": 80,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 12,
        "sliding_window_pattern": 2,
    },
    OlmoConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    Olmo2Config: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    Phi3Config: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "pad_token_id": None},
    SeedOssConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 16},
    SmolLM3Config: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "pad_token_id": None},
    GraniteConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    PhiConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    StableLmConfig: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    Starcoder2Config: {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2},
    MixtralConfig: {**COMMON, "intermediate_size": 40, "num_key_value_heads": 2, "num_local_experts": 6},
    Qwen2MoeConfig: {**EXPERTS, "shared_expert_intermediate_size": 56},
    Qwen3MoeConfig: {**EXPERTS, "head_dim": 16},
}


def _ropes(family: str, config: type, **changes: Any) -> list[Variant]:
    """A variant for each rope type; `linear` and `dynamic` stretch the configured positions themselves."""
    return [
        Variant(
            f"{family}-{name}",
            config,
            {**changes, "rope_parameters": {"rope_theta": 10_000.0, **rope}}
            | ({"max_position_embeddings": ORIGINAL} if name in ("linear", "dynamic") else {}),
        )
        for name, rope in ROPES.items()
    ]


VARIANTS = [
    Variant("llama-gqa", LlamaConfig),
    Variant("llama-mha", LlamaConfig, {"num_key_value_heads": 6}),
    Variant("llama-mqa", LlamaConfig, {"num_key_value_heads": 1}),
    Variant("llama-tied", LlamaConfig, {"tie_word_embeddings": True}),
    Variant("llama-attention-bias", LlamaConfig, {"attention_bias": True}),
    Variant("llama-mlp-bias", LlamaConfig, {"mlp_bias": True}),
    Variant("llama-head-dim", LlamaConfig, {"head_dim": 16}),
    Variant("llama-gelu", LlamaConfig, {"hidden_act": "gelu_pytorch_tanh"}),
    Variant("llama-theta", LlamaConfig, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    *_ropes("llama", LlamaConfig),
    Variant("gpt-neox-parallel", GPTNeoXConfig),
    Variant("gpt-neox-sequential", GPTNeoXConfig, {"use_parallel_residual": False}),
    Variant("gpt-neox-full-rotary", GPTNeoXConfig, {"rotary_pct": 1.0}),
    Variant("gpt-neox-no-attention-bias", GPTNeoXConfig, {"attention_bias": False}),
    Variant("gpt-neox-tied", GPTNeoXConfig, {"tie_word_embeddings": True}),
    *_ropes("gpt-neox", GPTNeoXConfig),
    Variant("falcon-7b", FalconConfig),
    Variant("falcon-7b-untied", FalconConfig, {"tie_word_embeddings": False}),
    Variant("falcon-bias", FalconConfig, {"bias": True}),
    Variant("falcon-sequential", FalconConfig, {"parallel_attn": False, "multi_query": False}),
    Variant("falcon-40b", FalconConfig, {"new_decoder_architecture": True, "num_kv_heads": 2}),
    Variant(
        "falcon-11b",
        FalconConfig,
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    *_ropes("falcon", FalconConfig, new_decoder_architecture=True, num_kv_heads=2),
    Variant("mistral-window", MistralConfig),
    Variant("mistral-window-of-one", MistralConfig, {"sliding_window": 1}),
    Variant("mistral-no-window", MistralConfig, {"sliding_window": None, "head_dim": 16}),
    *_ropes("mistral", MistralConfig),
    Variant("qwen2", Qwen2Config),
    Variant("qwen2-tied", Qwen2Config, {"tie_word_embeddings": True}),
    Variant("qwen2-upper-window", Qwen2Config, SLIDING),
    Variant(
        "qwen2-layer-types",
        Qwen2Config,
        {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    *_ropes("qwen2", Qwen2Config, **SLIDING),
    Variant("qwen3", Qwen3Config),
    Variant("qwen3-bias", Qwen3Config, {"attention_bias": True}),
    Variant("qwen3-upper-window", Qwen3Config, SLIDING),
    *_ropes("qwen3", Qwen3Config),
    Variant(
        "granite",
        GraniteConfig,
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.3,
            "logits_scaling": 8.0,
        },
    ),
    Variant(
        "granite-bias", GraniteConfig, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    ),
    *_ropes("granite", GraniteConfig),
    Variant("gemma", GemmaConfig),
    Variant("gemma-bias", GemmaConfig, {"attention_bias": True, "tie_word_embeddings": False}),
    *_ropes("gemma", GemmaConfig),
    Variant("gemma2", Gemma2Config),
    Variant(
        "gemma2-no-caps", Gemma2Config, {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    ),
    Variant("gemma2-layer-types", Gemma2Config, {"layer_types": ["full_attention", "sliding_attention"]}),
    *_ropes("gemma2", Gemma2Config),
    Variant("gemma3-text", Gemma3TextConfig),
    Variant(
        "gemma3-text-caps", Gemma3TextConfig, {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}
    ),
    Variant(
        "gemma3-text-linear",
        Gemma3TextConfig,
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
            }
        },
    ),
    Variant("olmo", OlmoConfig),
    Variant("olmo-clipped", OlmoConfig, {"clip_qkv": 0.5, "attention_bias": True}),
    *_ropes("olmo", OlmoConfig),
    Variant("olmo2", Olmo2Config),
    Variant("olmo2-bias", Olmo2Config, {"attention_bias": True, "tie_word_embeddings": True}),
    *_ropes("olmo2", Olmo2Config),
    Variant("phi3", Phi3Config),
    Variant("phi3-window", Phi3Config, {"sliding_window": WINDOW, "tie_word_embeddings": True}),
    Variant("phi3-partial", Phi3Config, {"partial_rotary_factor": 0.5}),
    Variant("phi3-longrope", Phi3Config, {"original_max_position_embeddings": ORIGINAL, **LONGROPE}),
    Variant("seed-oss", SeedOssConfig),
    Variant(
        "seed-oss-switched",
        SeedOssConfig,
        {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True},
    ),
    *_ropes("seed-oss", SeedOssConfig),
    Variant("smollm3", SmolLM3Config, {"no_rope_layer_interval": 2}),
    Variant("smollm3-all-rotated", SmolLM3Config, {"tie_word_embeddings": False}),
    Variant(
        "smollm3-window",
        SmolLM3Config,
        {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": WINDOW},
    ),
    *_ropes("smollm3", SmolLM3Config, no_rope_layer_interval=2),
    Variant("phi", PhiConfig),
    Variant("phi-rotary", PhiConfig, {"partial_rotary_factor": 0.75}),
    *_ropes("phi", PhiConfig, partial_rotary_factor=0.5),
    Variant("stablelm", StableLmConfig),
    Variant("stablelm-parallel", StableLmConfig, {"use_parallel_residual": True}),
    Variant("stablelm-bias", StableLmConfig, {"use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    Variant("starcoder2", Starcoder2Config, {"sliding_window": WINDOW}),
    Variant("starcoder2-no-bias", Starcoder2Config, {"use_bias": False, "tie_word_embeddings": False}),
    *_ropes("starcoder2", Starcoder2Config),
]
VARIANTS += [
    Variant("mixtral", MixtralConfig),
    Variant("mixtral-window", MixtralConfig, {"sliding_window": WINDOW, "head_dim": 16}),
    Variant("mixtral-one-expert", MixtralConfig, {"num_experts_per_tok": 1}),
    Variant("mixtral-all-experts", MixtralConfig, {"num_experts_per_tok": 6}),
    Variant(
        "mixtral-yarn", MixtralConfig, {"head_dim": 8, "rope_parameters": {"rope_theta": 10_000.0, **YARN}}
    ),
    Variant("qwen2-moe", Qwen2MoeConfig),
    Variant("qwen2-moe-norm-topk", Qwen2MoeConfig, {"norm_topk_prob": True}),
    Variant("qwen2-moe-no-bias", Qwen2MoeConfig, {"qkv_bias": False}),
    Variant("qwen2-moe-sparse-step", Qwen2MoeConfig, {"decoder_sparse_step": 2, "num_hidden_layers": 4}),
    Variant("qwen2-moe-mlp-only", Qwen2MoeConfig, {"mlp_only_layers": [1]}),
    Variant(
        "qwen2-moe-every-second-window",
        Qwen2MoeConfig,
        {**SLIDING, "max_window_layers": 3, "num_hidden_layers": 5},
    ),
    Variant(
        "qwen2-moe-layer-types",
        Qwen2MoeConfig,
        {**SLIDING, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    Variant("qwen2-moe-llama3", Qwen2MoeConfig, {"rope_parameters": {"rope_theta": 10_000.0, **LLAMA3}}),
    Variant("qwen3-moe", Qwen3MoeConfig),
    Variant("qwen3-moe-norm-topk", Qwen3MoeConfig, {"norm_topk_prob": True}),
    Variant("qwen3-moe-bias", Qwen3MoeConfig, {"attention_bias": True, "tie_word_embeddings": True}),
    Variant("qwen3-moe-sparse-step", Qwen3MoeConfig, {"decoder_sparse_step": 2, "mlp_only_layers": [1]}),
    Variant("qwen3-moe-window", Qwen3MoeConfig, SLIDING),
    Variant("qwen3-moe-yarn", Qwen3MoeConfig, {"rope_parameters": {"rope_theta": 10_000.0, **YARN}}),
]


@cache
def variant(name: str) -> Variant:
    """The variant of a name."""
    return next(v for v in VARIANTS if v.name == name)

"""The mixtures of experts."""

from transformers import (
    MixtralConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from tests.families.variants.base import COMMON, SLIDING, TINY, WINDOW, Variant, ropes

EXPERTS = {
    **COMMON,
    "intermediate_size": 80,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 40,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}
TINY |= {
    MixtralConfig: {**COMMON, "intermediate_size": 40, "num_key_value_heads": 2, "num_local_experts": 6},
    Qwen2MoeConfig: {**EXPERTS, "shared_expert_intermediate_size": 56},
    Qwen3MoeConfig: {**EXPERTS, "head_dim": 16},
}

VARIANTS = [
    Variant("mixtral", MixtralConfig),
    Variant("mixtral-window", MixtralConfig, {"sliding_window": WINDOW, "head_dim": 16}),
    Variant("mixtral-one-expert", MixtralConfig, {"num_experts_per_tok": 1}),
    Variant("mixtral-all-experts", MixtralConfig, {"num_experts_per_tok": 6}),
    *ropes("mixtral", MixtralConfig, head_dim=8),
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
    *ropes("qwen2-moe", Qwen2MoeConfig),
    Variant("qwen3-moe", Qwen3MoeConfig),
    Variant("qwen3-moe-norm-topk", Qwen3MoeConfig, {"norm_topk_prob": True}),
    Variant("qwen3-moe-bias", Qwen3MoeConfig, {"attention_bias": True, "tie_word_embeddings": True}),
    Variant("qwen3-moe-sparse-step", Qwen3MoeConfig, {"decoder_sparse_step": 2, "mlp_only_layers": [1]}),
    Variant("qwen3-moe-window", Qwen3MoeConfig, SLIDING),
    *ropes("qwen3-moe", Qwen3MoeConfig),
]

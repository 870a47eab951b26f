"""DeepSeek's latent attention, and experts in groups."""

from transformers import DeepseekV2Config, DeepseekV3Config

from tests.families.variants.base import COMMON, TINY, Variant, ropes

LATENT = {
    **COMMON,
    "intermediate_size": 80,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "num_key_value_heads": 6,
}
GROUPS = {"n_group": 4, "topk_group": 2}
TINY |= {DeepseekV2Config: LATENT, DeepseekV3Config: {**LATENT, **GROUPS}}
LITE = {"q_lora_rank": None}  # queries by one matrix, as in the Lite models

VARIANTS = [
    Variant("deepseek-v2", DeepseekV2Config),
    Variant("deepseek-v2-lite", DeepseekV2Config, LITE),
    Variant(
        "deepseek-v2-groups",
        DeepseekV2Config,
        {"topk_method": "group_limited_greedy", **GROUPS, "routed_scaling_factor": 16.0},
    ),
    Variant("deepseek-v2-bias", DeepseekV2Config, {"attention_bias": True, "tie_word_embeddings": True}),
    Variant("deepseek-v2-lite-bias", DeepseekV2Config, {"attention_bias": True, **LITE}),
    Variant("deepseek-v2-all-experts", DeepseekV2Config, {"first_k_dense_replace": 0, "n_shared_experts": 1}),
    Variant("deepseek-v2-eps", DeepseekV2Config, {"rms_norm_eps": 0.1}),  # the latents' norms have their own
    *ropes("deepseek-v2", DeepseekV2Config),
    Variant("deepseek-v3", DeepseekV3Config),
    Variant("deepseek-v3-lite", DeepseekV3Config, LITE),
    Variant("deepseek-v3-one-group", DeepseekV3Config, {"n_group": 1, "topk_group": 1, **LITE}),  # Moonlight
    Variant("deepseek-v3-bias", DeepseekV3Config, {"attention_bias": True, "tie_word_embeddings": True}),
    Variant("deepseek-v3-by-halves", DeepseekV3Config, {"rope_interleave": False, "attention_bias": True}),
    Variant("deepseek-v3-no-norm", DeepseekV3Config, {"norm_topk_prob": False, "n_shared_experts": 2}),
    Variant("deepseek-v3-all-dense", DeepseekV3Config, {"first_k_dense_replace": 2}),
    *ropes("deepseek-v3", DeepseekV3Config),
]

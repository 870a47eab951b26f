"""gpt-oss: attention sinks and clamped experts."""

from typing import Any

from transformers import GptOssConfig

from tests.families.variants.base import COMMON, ORIGINAL, TINY, WINDOW, Variant, ropes

# As the Hub's: yarn that rounds nothing.
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 150_000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": ORIGINAL,
}
TINY |= {
    GptOssConfig: {
        **COMMON,
        "intermediate_size": 40,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": WINDOW,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "rope_parameters": YARN,
    }
}

VARIANTS = [
    Variant("gpt-oss", GptOssConfig),
    Variant("gpt-oss-tied", GptOssConfig, {"tie_word_embeddings": True}),
    Variant("gpt-oss-no-attention-bias", GptOssConfig, {"attention_bias": False}),
    Variant("gpt-oss-no-window", GptOssConfig, {"layer_types": ["full_attention"] * 2}),
    Variant("gpt-oss-all-window", GptOssConfig, {"layer_types": ["sliding_attention"] * 2}),
    Variant("gpt-oss-one-expert", GptOssConfig, {"num_experts_per_tok": 1}),
    Variant("gpt-oss-all-experts", GptOssConfig, {"num_experts_per_tok": 6}),
    Variant("gpt-oss-mha", GptOssConfig, {"num_key_value_heads": 6, "head_dim": 8}),
    Variant("gpt-oss-mqa", GptOssConfig, {"num_key_value_heads": 1}),
    Variant("gpt-oss-tight-clamp", GptOssConfig, {"swiglu_limit": 0.1, "swiglu_alpha": 1.3}),
    Variant("gpt-oss-default-rope", GptOssConfig, {"rope_parameters": None}),
    *ropes("gpt-oss", GptOssConfig),
]

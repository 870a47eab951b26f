"""Families that rotate neighbouring dimensions: Cohere's and GLM's."""

from transformers import Cohere2Config, CohereConfig, Glm4Config, GlmConfig

from tests.families.variants.base import COMMON, TINY, WINDOW, Variant, ropes

DENSE = {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "pad_token_id": None}
BOTH_KINDS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
TINY |= {
    CohereConfig: DENSE,
    Cohere2Config: {**DENSE, "num_hidden_layers": 4, "sliding_window": WINDOW},
    GlmConfig: {**DENSE, "head_dim": 16},
    Glm4Config: {**DENSE, "head_dim": 16},
}

VARIANTS = [
    Variant("cohere", CohereConfig),
    Variant("cohere-mha", CohereConfig, {"num_key_value_heads": None, "logit_scale": 0.8}),
    Variant("cohere-qk-norm", CohereConfig, {"use_qk_norm": True}),
    Variant("cohere-bias", CohereConfig, {"attention_bias": True, "head_dim": 16}),
    Variant("cohere-untied", CohereConfig, {"tie_word_embeddings": False, "layer_norm_eps": 1e-3}),
    *ropes("cohere", CohereConfig, use_qk_norm=True),
    Variant("cohere2", Cohere2Config),
    Variant("cohere2-pattern", Cohere2Config, {"sliding_window_pattern": 2, "attention_bias": True}),
    Variant("cohere2-layer-types", Cohere2Config, {**BOTH_KINDS, "tie_word_embeddings": False}),
    *ropes("cohere2", Cohere2Config, **BOTH_KINDS),
    Variant("glm", GlmConfig),
    Variant("glm-no-bias", GlmConfig, {"attention_bias": False, "tie_word_embeddings": True}),
    Variant("glm-fully-rotated", GlmConfig, {"partial_rotary_factor": 1.0}),
    *ropes("glm", GlmConfig),
    Variant("glm4", Glm4Config),
    Variant("glm4-no-bias", Glm4Config, {"attention_bias": False, "tie_word_embeddings": True}),
    Variant("glm4-fully-rotated", Glm4Config, {"partial_rotary_factor": 1.0, "num_key_value_heads": 6}),
    *ropes("glm4", Glm4Config),
]

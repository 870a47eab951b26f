"""Families of 2025 with a window in most layers: OLMo 3 and EXAONE 4."""

from transformers import Exaone4Config, Olmo3Config

from tests.families.variants.base import COMMON, TINY, WINDOW, Variant, full_attention_ropes, ropes

WINDOWED = {
    **COMMON,
    "num_hidden_layers": 4,
    "intermediate_size": 80,
    "num_key_value_heads": 2,
    "sliding_window": WINDOW,
}
FULL_FIRST = {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}
TINY |= {
    Olmo3Config: {**WINDOWED, "pad_token_id": None},
    Exaone4Config: {**WINDOWED, "head_dim": 16},
}

VARIANTS = [
    Variant("olmo3", Olmo3Config),
    Variant("olmo3-bias", Olmo3Config, {"attention_bias": True, "tie_word_embeddings": True}),
    Variant("olmo3-layer-types", Olmo3Config, {**FULL_FIRST, "num_key_value_heads": None}),
    *full_attention_ropes("olmo3", Olmo3Config, **FULL_FIRST),
    Variant("exaone4", Exaone4Config),
    Variant("exaone4-pattern", Exaone4Config, {"sliding_window_pattern": 2, "tie_word_embeddings": True}),
    Variant("exaone4-layer-types", Exaone4Config, FULL_FIRST),
    Variant(
        "exaone4-no-window",
        Exaone4Config,
        {"sliding_window": None, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
    ),
    *ropes("exaone4", Exaone4Config, num_hidden_layers=2, layer_types=["sliding_attention"] * 2),
]

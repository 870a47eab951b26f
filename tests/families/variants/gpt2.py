"""GPT-2: no rope, and none of the switches of Llama's relatives."""

from transformers import GPT2Config

from tests.families.variants.base import ORIGINAL, TINY, Variant

TINY |= {
    GPT2Config: {
        "vocab_size": 128,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 6,
        "n_positions": 2 * ORIGINAL,
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": None,
    }
}

VARIANTS = [
    Variant("gpt2", GPT2Config),
    Variant("gpt2-untied", GPT2Config, {"tie_word_embeddings": False, "n_inner": 80}),
    Variant("gpt2-unscaled", GPT2Config, {"scale_attn_weights": False, "activation_function": "relu"}),
    Variant("gpt2-scaled-by-layer", GPT2Config, {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3}),
]

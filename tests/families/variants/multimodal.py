"""Language models of multimodal repositories, run on text alone."""

from dataclasses import replace
from typing import Any

from transformers import Gemma3Config, Gemma3TextConfig, Ministral3Config, Mistral3Config, MistralConfig

from tests.families.variants.base import COMMON, ORIGINAL, WINDOW, YARN, Variant, ropes
from tests.families.variants.dense import (
    GEMMA3_ROPES,
    TINY,
)  # with what the language models alone are tested by

VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
BETA = {"llama_4_scaling_beta": 0.7, "original_max_position_embeddings": ORIGINAL}
TINY |= {
    Gemma3Config: {"vision_config": VISION, "mm_tokens_per_image": 4},
    Mistral3Config: {"vision_config": {"model_type": "pixtral", **VISION}},
    Ministral3Config: {
        **COMMON,
        "intermediate_size": 80,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": None,
        "rope_parameters": {"rope_theta": 10_000.0, **YARN, **BETA},
    },
}


def gemma3(name: str, text: dict[str, Any], **changes: Any) -> Variant:
    """A variant whose `text_config` has these changes."""
    return Variant(name, Gemma3Config, {**changes, "text_config": {**TINY[Gemma3TextConfig], **text}})


def mistral3(name: str, text: type, tied: bool | None = None, **changes: Any) -> Variant:
    """A variant whose `text_config` is of the class `text`, with these changes; `tied` is the whole's word."""
    return Variant(
        name,
        Mistral3Config,
        {
            "text_config": text(**{**TINY[text], **changes}),
            "tie_word_embeddings": changes.get("tie_word_embeddings", False) if tied is None else tied,
        },
    )


VARIANTS = [
    gemma3("gemma3", {}),
    gemma3("gemma3-untied", {"tie_word_embeddings": False}, tie_word_embeddings=False),
    *(gemma3(v.name.replace("-text", ""), v.changes) for v in GEMMA3_ROPES),
    Variant("ministral3", Ministral3Config),
    Variant("ministral3-tied", Ministral3Config, {"tie_word_embeddings": True}),
    Variant("ministral3-window", Ministral3Config, {"sliding_window": WINDOW}),
    Variant(
        "ministral3-often",
        Ministral3Config,
        {"rope_parameters": {"rope_theta": 1e6, **YARN, **BETA, "original_max_position_embeddings": 5}},
    ),
    *(
        replace(
            variant,
            changes={**variant.changes, "rope_parameters": {**variant.changes["rope_parameters"], **BETA}},
        )
        for variant in ropes("ministral3", Ministral3Config)
    ),
    mistral3("mistral3", MistralConfig),
    mistral3("mistral3-tied", MistralConfig, tie_word_embeddings=True),
    mistral3("mistral3-tied-by-the-whole", MistralConfig, tied=True, tie_word_embeddings=False),
    mistral3("mistral3-untied-by-the-whole", MistralConfig, tied=False, tie_word_embeddings=True),
    *(mistral3(v.name, MistralConfig, **v.changes) for v in ropes("mistral3", MistralConfig)),
    mistral3("mistral3-ministral", Ministral3Config),
]

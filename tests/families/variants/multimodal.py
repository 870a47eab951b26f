"""Language models of multimodal repositories, run on text alone."""

from typing import Any

from transformers import Gemma3Config, Gemma3TextConfig

from tests.families.variants.base import Variant
from tests.families.variants.dense import TINY  # with what the language models alone are tested by

VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TINY |= {Gemma3Config: {"vision_config": VISION, "mm_tokens_per_image": 4}}


def gemma3(name: str, text: dict[str, Any], **changes: Any) -> Variant:
    """A variant whose `text_config` has these changes."""
    return Variant(name, Gemma3Config, {**changes, "text_config": {**TINY[Gemma3TextConfig], **text}})


VARIANTS = [
    gemma3("gemma3", {}),
    gemma3("gemma3-untied", {"tie_word_embeddings": False}, tie_word_embeddings=False),
    gemma3(
        "gemma3-linear",
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}},
    ),
]

"""Gemma (arXiv:2403.08295): Llama with scaled embeddings, norms by 1 + weight, and GELU in the gated MLP."""

from dataclasses import replace

from mygpt.errors import InputError
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config

# The first files said "gelu" and meant its tanh approximation. transformers reads them in the same way.
_LEGACY_ACTIVATION = {"gelu": "gelu_pytorch_tanh"}


def read_gemma(fields: Fields) -> Config:
    """The configuration that all generations of Gemma share."""
    if fields.raw.get("use_bidirectional_attention"):
        raise InputError(f"{fields.source}: 'use_bidirectional_attention' is not supported")
    activation = fields.get("hidden_activation", fields.get("hidden_act", "gelu"))
    raw = {"head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True, **fields.raw}
    raw["hidden_act"] = _LEGACY_ACTIVATION.get(str(activation), activation)
    config = read_llama(Fields(raw, fields.source))
    return replace(config, norm="rms_one_plus", mlp_bias=False, embedding_scale=config.hidden_size**0.5)


FAMILY = Family(
    model_type="gemma",
    summary="Gemma 2B, 7B, CodeGemma",
    examples=("google/gemma-2b-it", "google/codegemma-7b-it"),
    read_config=read_gemma,
    names=NAMES,
    skipped=SKIPPED,
)

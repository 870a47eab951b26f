"""Ministral 3 (Mistral AI, 2025): Mistral with YaRN and Llama 4's scaling of queries by position."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED
from mygpt.families.mistral import read_mistral
from mygpt.model.config import Config, QueryScaling

_BETA = "llama_4_scaling_beta"
# From transformers' Ministral3Config, where they differ from Llama's.
_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16_384,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        _BETA: 0.1,
    },
}


def read_ministral3(fields: Fields) -> Config:
    """The configuration of the language model, alone or in a multimodal repository."""
    key = "rope_scaling" if fields.raw.get("rope_scaling") else "rope_parameters"
    values = fields.get(key, _DEFAULTS["rope_parameters"])
    if not isinstance(values, dict):
        raise fields.error(key, "an object")
    plain = {name: value for name, value in values.items() if name != _BETA}
    config = read_mistral(
        Fields({**_DEFAULTS, "rope_parameters": None, **fields.raw, key: plain}, fields.source)
    )
    rope = Fields(values, f"{fields.source}: '{key}'")
    if not values.get(_BETA):
        return config
    scaling = QueryScaling(rope.number(_BETA), rope.integer("original_max_position_embeddings"))
    return replace(config, query_scaling=scaling)


FAMILY = Family(
    model_type="ministral3",
    summary="the language model of Ministral 3 3B, 8B, 14B, which mistral3 repositories hold",
    examples=("mistralai/Ministral-3-8B-Base-2512",),
    read_config=read_ministral3,
    names=NAMES,
    skipped=SKIPPED,
)

"""A key that `config.json` leaves out is what transformers' configuration class has for it. No model is built."""

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from mygpt.families import FAMILIES, read_config
from mygpt.model.config import Config

REQUIRED = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
REQUIRED |= {"model_type", "num_local_experts", "num_experts", "moe_intermediate_size"}
NULL = {"deepseek_v2": {"num_experts_per_tok": 6}}  # in the class, but no model can be built of it


def class_defaults(model_type: str) -> dict[str, Any]:
    """The class's own `config.json`, but for lists by layer, which are made of the rest."""
    whole = CONFIG_MAPPING[model_type](**NULL.get(model_type, {})).to_dict()
    return {key: value for key, value in whole.items() if key != "layer_types"}


def without(raw: dict[str, Any], keys: set[str]) -> Config:
    """The architecture of a `config.json` without the keys."""
    return read_config({key: value for key, value in raw.items() if key not in keys})[1]


# A multimodal class's defaults are those of its parts.
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name not in ("gemma3", "mistral3")])
def test_what_is_left_out_is_the_class_default(model_type: str) -> None:
    raw = class_defaults(model_type)
    optional = raw.keys() - REQUIRED - NULL.get(model_type, {}).keys()
    whole = without(raw, set())
    for key in optional:
        assert without(raw, {key}) == whole, key
    assert without(raw, optional) == whole

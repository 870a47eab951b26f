"""Mistral (arXiv:2310.06825): Llama with a sliding window in every layer, where the file gives one."""

from dataclasses import replace

from mygpt.config import Config
from mygpt.families.base import Family
from mygpt.families.fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama

_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131_072}


def read_mistral(fields: Fields) -> Config:
    """The configuration of the language model, alone or in a multimodal repository."""
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    # null means none, but a file without the key means the first model's.
    has_window = fields.raw.get("sliding_window", 4096) is not None
    window = fields.integer("sliding_window", 4096) if has_window else 0
    return replace(config, layer_windows=(window,) * config.n_layers)


FAMILY = Family(
    model_type="mistral",
    summary="Mistral 7B, Mistral Nemo, Mistral Small, Zephyr, Mathstral, H2O-Danube 1 and 2",
    examples=("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-Nemo-Instruct-2407"),
    read_config=read_mistral,
    names=NAMES,
    skipped=SKIPPED,
)

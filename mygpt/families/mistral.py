"""Mistral (arXiv:2310.06825): Llama with a sliding window in every layer, if the file gives one."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config

# A file without the window's key means the first model's window; null means no window.
_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096}


def read_mistral(fields: Fields) -> Config:
    """The configuration of the language model, alone or in a multimodal repository."""
    fields = Fields({**_DEFAULTS, **fields.raw}, fields.source)
    config = read_llama(fields)
    return replace(config, layer_windows=fields.window_everywhere(config.n_layers))


FAMILY = Family(
    model_type="mistral",
    summary="Mistral 7B, Mistral Nemo, Mistral Small, Zephyr, Mathstral, H2O-Danube 1 and 2",
    examples=("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-Nemo-Instruct-2407"),
    read_config=read_mistral,
    names=NAMES,
    skipped=SKIPPED,
)

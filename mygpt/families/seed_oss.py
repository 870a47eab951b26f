"""Seed-OSS (ByteDance): Llama with biases on queries, keys and values."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config

_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 524_288,
    "attention_bias": True,
}


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    return replace(config, attention_output_bias=fields.flag("attention_out_bias", False))


FAMILY = Family(
    model_type="seed_oss",
    summary="Seed-OSS 36B",
    examples=("ByteDance-Seed/Seed-OSS-36B-Instruct",),
    read_config=_read_config,
    names=NAMES,
    skipped=SKIPPED,
)

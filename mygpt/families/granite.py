"""Granite 3 (IBM): Llama with multipliers on the embedding, the residual branches, attention and the logits."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    return replace(
        read_llama(fields),
        embedding_scale=fields.number("embedding_multiplier", 1.0),
        residual_scale=fields.number("residual_multiplier", 1.0),
        attention_scale=fields.number("attention_multiplier", 1.0),
        logits_scale=1 / fields.number("logits_scaling", 1.0),
    )


FAMILY = Family(
    model_type="granite",
    summary="Granite 3.0 to 3.3, dense",
    examples=("ibm-granite/granite-3.3-2b-instruct",),
    read_config=_read_config,
    names=NAMES,
    skipped=SKIPPED,
)

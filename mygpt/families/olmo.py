"""OLMo (arXiv:2402.00838): Llama with layer norms without weights, and clipped queries, keys and values."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    return replace(
        read_llama(fields),
        norm="layer_plain",
        norm_eps=1e-5,
        clip_qkv=fields.optional("clip_qkv"),
        mlp_bias=False,
    )


FAMILY = Family(
    model_type="olmo",
    summary="OLMo 1B, 7B",
    examples=("allenai/OLMo-1B-hf", "allenai/OLMo-7B-Instruct-hf"),
    read_config=_read_config,
    names={name: ours for name, ours in NAMES.items() if "norm" not in name},
    skipped=SKIPPED,
)

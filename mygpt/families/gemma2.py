"""Gemma 2 (arXiv:2408.00118): Gemma with norms before and after, softcaps, and a window in every second layer."""

from dataclasses import replace

from mygpt.families import llama
from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.families.gemma import read_gemma
from mygpt.families.llama import SKIPPED
from mygpt.model.config import Config

NAMES: dict[str, str | Split] = {
    **llama.NAMES,
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.attention_post_norm.weight",
    "model.layers.{i}.pre_feedforward_layernorm.weight": "layers.{i}.mlp_norm.weight",
    "model.layers.{i}.post_feedforward_layernorm.weight": "layers.{i}.mlp_post_norm.weight",
}


def _read_config(fields: Fields) -> Config:
    config = read_gemma(Fields({"num_key_value_heads": 4, **fields.raw}, fields.source))
    window = fields.integer("sliding_window", 4096)
    return replace(
        config,
        residual="sandwich",
        layer_windows=fields.windows(window, [i % 2 == 0 for i in range(config.n_layers)]),
        attention_scale=fields.number("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=fields.optional("attn_logit_softcapping", 50.0),
        logits_softcap=fields.optional("final_logit_softcapping", 30.0),
    )


FAMILY = Family(
    model_type="gemma2",
    summary="Gemma 2 2B, 9B, 27B",
    examples=("google/gemma-2-2b-it", "google/gemma-2-9b-it"),
    read_config=_read_config,
    names=NAMES,
    skipped=SKIPPED,
)

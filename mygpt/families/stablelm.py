"""StableLM-3B-4E1T, StableLM-Zephyr and StableLM 2: Llama with layer norms and partial rotation."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config

_DEFAULTS = {"max_position_embeddings": 4096, "partial_rotary_factor": 0.25}


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    parallel = fields.flag("use_parallel_residual", False)
    return replace(
        config,
        norm="layer",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        residual="parallel" if parallel else "sequential",
        shared_norm=parallel,
        qk_norm="own_head" if fields.flag("qk_layernorm", False) else "none",
        attention_bias=fields.flag("use_qkv_bias", False),
        attention_output_bias=False,
        mlp_bias=False,
    )


FAMILY = Family(
    model_type="stablelm",
    summary="StableLM-3B-4E1T, StableLM-Zephyr, StableLM 2 1.6B and 12B, StableCode 3B",
    examples=("stabilityai/stablelm-zephyr-3b", "stabilityai/stablelm-2-12b-chat"),
    read_config=_read_config,
    names={
        **NAMES,
        "model.layers.{i}.input_layernorm.bias": "layers.{i}.attention_norm.bias",
        "model.layers.{i}.post_attention_layernorm.bias": "layers.{i}.mlp_norm.bias",
        "model.layers.{i}.self_attn.q_layernorm.norms.{h}.weight": "layers.{i}.attention.q_norm.{h}.weight",
        "model.layers.{i}.self_attn.k_layernorm.norms.{h}.weight": "layers.{i}.attention.k_norm.{h}.weight",
        "model.norm.bias": "norm.bias",
    },
    skipped=SKIPPED,
)

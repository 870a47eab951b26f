"""Qwen3 (arXiv:2505.09388): Llama with a norm on each query and key head."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.families.qwen2 import read_windows
from mygpt.model.config import Config

_DEFAULTS = {"head_dim": 128, "max_position_embeddings": 32_768}


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    return replace(
        config,
        qk_norm="head",
        mlp_bias=False,
        layer_windows=read_windows(fields, config.n_layers),
    )


FAMILY = Family(
    model_type="qwen3",
    summary="Qwen3, dense",
    examples=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-4B-Instruct-2507"),
    read_config=_read_config,
    names={
        **NAMES,
        "model.layers.{i}.self_attn.q_norm.weight": "layers.{i}.attention.qk_norm.q.weight",
        "model.layers.{i}.self_attn.k_norm.weight": "layers.{i}.attention.qk_norm.k.weight",
    },
    skipped=SKIPPED,
)

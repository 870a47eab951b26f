"""Qwen3 MoE (arXiv:2505.09388): Qwen3 with experts instead of the MLPs."""

from dataclasses import replace

from mygpt.families import _moe, llama, qwen3
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.model.config import Config

_DEFAULTS = {"num_key_value_heads": 4, "max_position_embeddings": 32_768}


def _read_config(fields: Fields) -> Config:
    config = llama.read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    # Unlike Qwen3's, the window is in all layers or in none.
    slides = fields.flag("use_sliding_window", False)
    window = fields.integer("sliding_window", 4096) if slides else 0
    return replace(
        config,
        qk_norm="head",
        mlp_bias=False,
        layer_windows=(window,) * config.n_layers,
        moe=_moe.read_qwen_moe(fields, config.n_layers, per_token=8),
    )


FAMILY = Family(
    model_type="qwen3_moe",
    summary="Qwen3 MoE: 30B-A3B, 235B-A22B, Qwen3-Coder",
    examples=("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-Coder-30B-A3B-Instruct"),
    read_config=_read_config,
    names={**qwen3.FAMILY.names, **_moe.NAMES},
    skipped=llama.SKIPPED,
)

"""Qwen2 MoE: Qwen2 with experts instead of some MLPs, and a shared expert for every token."""

from dataclasses import replace

from mygpt.families import _moe, llama
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.model.config import Config

_DEFAULTS = {"num_key_value_heads": 16, "max_position_embeddings": 32_768}


def _read_config(fields: Fields) -> Config:
    config = llama.read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    shared_size = fields.integer("shared_expert_intermediate_size", 5632)
    return replace(
        config,
        attention_bias=fields.flag("qkv_bias", True),
        attention_output_bias=False,
        mlp_bias=False,
        layer_windows=_read_windows(fields, config.n_layers),
        moe=_moe.read_qwen_moe(fields, config.n_layers, per_token=4, shared_size=shared_size),
    )


def _read_windows(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """Unlike Qwen2, the default is a window in every second one of the lower layers."""
    if not fields.flag("use_sliding_window", False):
        return ()
    end = fields.count("max_window_layers", 28)
    sliding = [i % 2 == 0 and i < end for i in range(n_layers)]
    return fields.windows(fields.integer("sliding_window", 4096), sliding)


FAMILY = Family(
    model_type="qwen2_moe",
    summary="Qwen1.5-MoE, Qwen2-57B-A14B",
    examples=("Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen/Qwen2-57B-A14B-Instruct"),
    read_config=_read_config,
    names={
        **llama.NAMES,
        **_moe.NAMES,
        "model.layers.{i}.mlp.shared_expert.gate_proj.weight": "layers.{i}.mlp.shared.mlp.gate.weight",
        "model.layers.{i}.mlp.shared_expert.up_proj.weight": "layers.{i}.mlp.shared.mlp.up.weight",
        "model.layers.{i}.mlp.shared_expert.down_proj.weight": "layers.{i}.mlp.shared.mlp.down.weight",
        "model.layers.{i}.mlp.shared_expert_gate.weight": "layers.{i}.mlp.shared.scale.weight",
    },
    skipped=llama.SKIPPED,
)

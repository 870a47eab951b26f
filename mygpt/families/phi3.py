"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (arXiv:2404.14219): Llama with fused weights and the rope type longrope."""

from dataclasses import replace
from typing import TYPE_CHECKING

from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config

if TYPE_CHECKING:
    from torch import Tensor


_DEFAULTS = {
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    return replace(
        config,
        layer_windows=fields.window_everywhere(config.n_layers),
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
    )


def _split_qkv(tensor: "Tensor", config: Config) -> tuple["Tensor", ...]:
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return tensor[:queries], tensor[queries : queries + keys], tensor[queries + keys :]


def split_gate_up(tensor: "Tensor", config: Config) -> tuple["Tensor", ...]:
    """Gate rows, then up rows, to gate and up."""
    return tensor[: config.intermediate_size], tensor[config.intermediate_size :]


FAMILY = Family(
    model_type="phi3",
    summary="Phi-3, Phi-3.5, Phi-4, Phi-4-mini, Phi-4-reasoning",
    examples=("microsoft/Phi-3.5-mini-instruct", "microsoft/phi-4", "microsoft/Phi-4-mini-instruct"),
    read_config=_read_config,
    names={
        **NAMES,
        "model.layers.{i}.self_attn.qkv_proj.weight": Split(
            tuple(f"layers.{{i}}.attention.{part}.weight" for part in "qkv"), _split_qkv
        ),
        "model.layers.{i}.mlp.gate_up_proj.weight": Split(
            ("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.up.weight"), split_gate_up
        ),
    },
    skipped=SKIPPED,
)

"""Phi-1, Phi-1.5 and Phi-2 (arXiv:2309.05463): attention and a plain MLP in parallel, after one norm."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({"partial_rotary_factor": 0.5, **fields.raw}, fields.source))
    return replace(
        config,
        norm="layer",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        residual="parallel",
        shared_norm=True,
        mlp="plain",
        qk_norm="head" if fields.flag("qk_layernorm", False) else "none",
        activation=fields.activation("hidden_act", "gelu_new"),
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


FAMILY = Family(
    model_type="phi",
    summary="Phi-1, Phi-1.5, Phi-2, Dolphin 2.6 Phi-2",
    examples=("microsoft/phi-1_5", "microsoft/phi-2"),
    read_config=_read_config,
    names={
        **{name: ours for name, ours in NAMES.items() if "self_attn" in name or "embed" in name},
        "model.layers.{i}.input_layernorm.{p}": "layers.{i}.attention_norm.{p}",
        "model.layers.{i}.self_attn.q_layernorm.{p}": "layers.{i}.attention.qk_norm.q.{p}",
        "model.layers.{i}.self_attn.k_layernorm.{p}": "layers.{i}.attention.qk_norm.k.{p}",
        "model.layers.{i}.self_attn.dense.{p}": "layers.{i}.attention.output.{p}",
        "model.layers.{i}.mlp.fc1.{p}": "layers.{i}.mlp.up.{p}",
        "model.layers.{i}.mlp.fc2.{p}": "layers.{i}.mlp.down.{p}",
        "model.final_layernorm.{p}": "norm.{p}",
        "lm_head.{p}": "head.{p}",
    },
    skipped=SKIPPED,
)

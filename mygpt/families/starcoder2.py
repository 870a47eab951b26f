"""StarCoder2 (arXiv:2402.19173): Llama with layer norms, a plain MLP, biases everywhere and a sliding window."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config

_DEFAULTS = {"num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True}


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    bias = fields.flag("use_bias", True)
    return replace(
        config,
        layer_windows=fields.window_everywhere(config.n_layers),
        norm="layer",
        norm_eps=fields.number("norm_epsilon", 1e-5),
        mlp="plain",
        activation=fields.activation("hidden_act", "gelu_pytorch_tanh"),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bias,
    )


FAMILY = Family(
    model_type="starcoder2",
    summary="StarCoder2 3B, 7B, 15B",
    examples=("bigcode/starcoder2-3b", "bigcode/starcoder2-15b-instruct-v0.1"),
    read_config=_read_config,
    names={
        **NAMES,
        "model.layers.{i}.input_layernorm.{p}": "layers.{i}.attention_norm.{p}",
        "model.layers.{i}.post_attention_layernorm.{p}": "layers.{i}.mlp_norm.{p}",
        "model.layers.{i}.mlp.c_fc.{p}": "layers.{i}.mlp.up.{p}",
        "model.layers.{i}.mlp.c_proj.{p}": "layers.{i}.mlp.down.{p}",
        "model.norm.{p}": "norm.{p}",
    },
    skipped=SKIPPED,
)

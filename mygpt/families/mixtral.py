"""Mixtral (arXiv:2401.04088): Mistral with eight experts instead of each MLP; a token runs through two."""

from dataclasses import replace

from mygpt.families import _moe, llama
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.model.config import Config, MoEConfig

_DEFAULTS = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}


def _read_config(fields: Fields) -> Config:
    config = llama.read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    n_experts, num_experts_per_tok = _moe.read_experts(
        fields, "num_local_experts", "num_experts", per_token=2
    )
    return replace(
        config,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        layer_windows=fields.window_everywhere(config.n_layers),
        moe=MoEConfig(
            n_experts=n_experts,
            num_experts_per_tok=num_experts_per_tok,
            intermediate_size=config.intermediate_size,
            norm_topk_prob=True,
            layers=tuple(range(config.n_layers)),
        ),
    )


_FILE, _OURS = "model.layers.{i}.block_sparse_moe", "layers.{i}.mlp"

FAMILY = Family(
    model_type="mixtral",
    summary="Mixtral 8x7B and 8x22B, Nous Hermes 2 Mixtral, Dolphin Mixtral",
    examples=("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x22B-Instruct-v0.1"),
    read_config=_read_config,
    names={
        **llama.NAMES,
        **_moe.NAMES,
        f"{_FILE}.gate.weight": f"{_OURS}.router.weight",
        f"{_FILE}.experts.{{e}}.w1.weight": f"{_OURS}.experts.{{e}}.gate.weight",
        f"{_FILE}.experts.{{e}}.w3.weight": f"{_OURS}.experts.{{e}}.up.weight",
        f"{_FILE}.experts.{{e}}.w2.weight": f"{_OURS}.experts.{{e}}.down.weight",
    },
    skipped=llama.SKIPPED,
)

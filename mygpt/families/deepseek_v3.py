"""DeepSeek-V3 (arXiv:2412.19437): DeepSeek-V2 with a sigmoid router."""

from dataclasses import replace

from mygpt.families import _mla, llama
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.model.config import Config

_DEFAULTS = {
    "first_k_dense_replace": 3,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.5,
    "topk_group": 4,
}


def _read_config(fields: Fields) -> Config:
    fields = Fields({**_DEFAULTS, **fields.raw}, fields.source)
    _mla.require(fields, "scoring_func", "sigmoid")
    _mla.require(fields, "topk_method", "noaux_tc")
    config = _mla.read_mla(fields)
    moe = _mla.read_deepseek_moe(fields, config.n_layers, "sigmoid", grouped=True)
    if moe.n_experts < 2 * moe.n_group:  # a group's score is the sum of its best two
        raise fields.error("n_group", f"at most half of 'n_routed_experts' ({moe.n_experts})")
    return replace(config, moe=moe)


FAMILY = Family(
    model_type="deepseek_v3",
    summary="DeepSeek-V3, V3.1, R1; Moonlight",
    examples=(
        "deepseek-ai/DeepSeek-V3.1",
        "deepseek-ai/DeepSeek-R1",
        "moonshotai/Moonlight-16B-A3B-Instruct",
    ),
    read_config=_read_config,
    names={
        **_mla.NAMES,
        "model.layers.{i}.mlp.gate.e_score_correction_bias": "layers.{i}.mlp.router.e_score_correction_bias",
    },
    # The layer after the last predicts one more token (multi-token prediction), for training and speculation.
    skips_layers_past_the_last=True,
    skipped=(
        *llama.SKIPPED,
        "model.layers.{i}.embed_tokens.weight",
        "model.layers.{i}.enorm.weight",
        "model.layers.{i}.hnorm.weight",
        "model.layers.{i}.eh_proj.weight",
        "model.layers.{i}.shared_head.norm.weight",
        "model.layers.{i}.shared_head.head.weight",
    ),
)

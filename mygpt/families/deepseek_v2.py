"""DeepSeek-V2 (arXiv:2405.04434): multi-head latent attention, experts in groups, and shared experts."""

from dataclasses import replace

from mygpt.families import _mla, llama
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.model.config import Config

_DEFAULTS = {
    "first_k_dense_replace": 0,
    "moe_intermediate_size": 1407,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
}


def _read_config(fields: Fields) -> Config:
    fields = Fields({**_DEFAULTS, **fields.raw}, fields.source)
    _mla.require(fields, "scoring_func", "softmax")
    method = _mla.require(fields, "topk_method", "greedy", "group_limited_greedy")
    # No published file sets these, and DeepSeek's own code and transformers treat them differently.
    for key in ("norm_topk_prob", "mlp_bias"):
        if fields.flag(key, False):
            raise fields.error(key, "false")
    config = _mla.read_mla(fields)
    grouped = method == "group_limited_greedy"
    moe = _mla.read_deepseek_moe(fields, config.n_layers, "grouped_softmax", grouped=grouped)
    return replace(config, moe=moe)


FAMILY = Family(
    model_type="deepseek_v2",
    summary="DeepSeek-V2, V2-Lite, V2.5, Coder-V2",
    examples=("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"),
    read_config=_read_config,
    names=_mla.NAMES,
    skipped=llama.SKIPPED,
)

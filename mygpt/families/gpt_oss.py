"""gpt-oss (arXiv:2508.10925): attention sinks, a window in every second layer, experts with clamped SwiGLU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mygpt.families import _moe, llama
from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.model.config import ClampedSwiGLU, Config, MoEConfig

if TYPE_CHECKING:
    from torch import Tensor

_DEFAULTS = {
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150_000.0,
    "attention_bias": True,
}
_DEFAULT_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _read_config(fields: Fields) -> Config:
    raw = {**_DEFAULTS, **fields.raw}
    if not raw.get("rope_parameters") and not raw.get("rope_scaling"):
        raw["rope_parameters"] = _DEFAULT_ROPE
    config = llama.read_llama(Fields(raw, fields.source))
    n_experts, num_experts_per_tok = _moe.read_experts(
        fields, "num_local_experts", "num_experts", per_token=4
    )
    return replace(
        config,
        layer_windows=fields.windows(
            fields.integer("sliding_window", 128), [i % 2 == 0 for i in range(config.n_layers)]
        ),
        attention_sinks=True,
        clamped_swiglu=ClampedSwiGLU(
            limit=fields.number("swiglu_limit", 7.0), alpha=fields.number("swiglu_alpha", 1.702)
        ),
        mlp_bias=True,
        moe=MoEConfig(
            n_experts=n_experts,
            num_experts_per_tok=num_experts_per_tok,
            intermediate_size=config.intermediate_size,
            norm_topk_prob=True,  # the same as a softmax over the token's experts only
            layers=tuple(range(config.n_layers)),
            router_bias=True,
        ),
    )


def split_gate_up(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """Alternating rows of gate and up, to gate and up."""
    return tensor[0::2], tensor[1::2]


def split_gate_up_of_experts(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """(experts, hidden size, alternating gate and up) or the biases (experts, gate and up), to gates and ups."""
    return tuple(part for expert in _experts(tensor, config) for part in split_gate_up(expert, config))


def split_down_of_experts(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """(experts, width, hidden size) or the biases (experts, hidden size), to one tensor an expert."""
    return tuple(expert.contiguous() for expert in _experts(tensor, config))


def _experts(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """Each expert's matrix with outputs first, as in `Linear`. The file has inputs first."""
    assert config.moe is not None
    return tensor.view(config.moe.n_experts, *tensor.shape[1:]).transpose(1, -1).unbind()


_FILE, _OURS = "model.layers.{i}.mlp.experts", "layers.{i}.mlp.experts.{e}"

FAMILY = Family(
    model_type="gpt_oss",
    summary="gpt-oss 20B, 120B",
    examples=("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    read_config=_read_config,
    names={
        **llama.NAMES,
        "model.layers.{i}.self_attn.sinks": "layers.{i}.attention.sinks",
        "model.layers.{i}.mlp.router.{p}": "layers.{i}.mlp.router.{p}",
        f"{_FILE}.gate_up_proj": Split(
            (f"{_OURS}.gate.weight", f"{_OURS}.up.weight"), split_gate_up_of_experts
        ),
        f"{_FILE}.gate_up_proj_bias": Split(
            (f"{_OURS}.gate.bias", f"{_OURS}.up.bias"), split_gate_up_of_experts
        ),
        f"{_FILE}.down_proj": Split((f"{_OURS}.down.weight",), split_down_of_experts),
        f"{_FILE}.down_proj_bias": Split((f"{_OURS}.down.bias",), split_down_of_experts),
        # From `mxfp4.py`: outputs first already.
        f"{_FILE}.{{e}}.gate_up_proj": Split((f"{_OURS}.gate.weight", f"{_OURS}.up.weight"), split_gate_up),
        f"{_FILE}.{{e}}.down_proj": f"{_OURS}.down.weight",
    },
    skipped=llama.SKIPPED,
)

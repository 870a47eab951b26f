"""The mixture of experts: its configuration and weight names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mygpt.families._base import Split
from mygpt.families._fields import Fields
from mygpt.model.config import Config, MoEConfig

if TYPE_CHECKING:
    from torch import Tensor


def read_experts(fields: Fields, *keys: str, per_token: int | None) -> tuple[int, int]:
    """How many experts there are, and how many a token runs through.

    The number of experts is that of the first of `keys` that the file has. `per_token` is the default of
    `num_experts_per_tok`; None: the file must have it.
    """
    key = next((key for key in keys if fields.raw.get(key) is not None), keys[0])
    n_experts = fields.integer(key)
    default = () if per_token is None else (per_token,)
    num_experts_per_tok = fields.integer("num_experts_per_tok", *default)
    if num_experts_per_tok > n_experts:
        raise fields.error("num_experts_per_tok", f"at most '{key}' ({n_experts})")
    return n_experts, num_experts_per_tok


def read_qwen_moe(fields: Fields, n_layers: int, *, per_token: int, shared_size: int = 0) -> MoEConfig:
    """The experts of Qwen's configurations: in every `decoder_sparse_step`th layer, without `mlp_only_layers`."""
    step, dense = fields.integer("decoder_sparse_step", 1), fields.get("mlp_only_layers", [])
    if not isinstance(dense, list) or not all(type(i) is int and 0 <= i < n_layers for i in dense):
        raise fields.error("mlp_only_layers", f"a list of layers, from 0 to {n_layers - 1}")
    # transformers 5 writes Qwen3's `num_experts` under Mixtral's name.
    n_experts, num_experts_per_tok = read_experts(
        fields, "num_experts", "num_local_experts", per_token=per_token
    )
    return MoEConfig(
        n_experts=n_experts,
        num_experts_per_tok=num_experts_per_tok,
        intermediate_size=fields.integer("moe_intermediate_size"),
        norm_topk_prob=fields.flag("norm_topk_prob", False),
        layers=tuple(i for i in range(n_layers) if (i + 1) % step == 0 and i not in dense),
        shared_intermediate_size=shared_size,
    )


def split_gate_up(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """(experts, gate then up rows, hidden size) to each expert's gate and up."""
    assert config.moe is not None
    return tensor.view(config.moe.n_experts, 2, -1, config.hidden_size).flatten(0, 1).unbind()


def split_down(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """(experts, hidden size, width) to each expert's matrix."""
    assert config.moe is not None
    return tensor.view(config.moe.n_experts, config.hidden_size, -1).unbind()


_EXPERT = "layers.{i}.mlp.experts.{e}"
# transformers 5 has one tensor for all experts in memory, and can save it so.
NAMES: dict[str, str | Split] = {
    "model.layers.{i}.mlp.gate.weight": "layers.{i}.mlp.router.weight",
    "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": f"{_EXPERT}.gate.weight",
    "model.layers.{i}.mlp.experts.{e}.up_proj.weight": f"{_EXPERT}.up.weight",
    "model.layers.{i}.mlp.experts.{e}.down_proj.weight": f"{_EXPERT}.down.weight",
    "model.layers.{i}.mlp.experts.gate_up_proj": Split(
        (f"{_EXPERT}.gate.weight", f"{_EXPERT}.up.weight"), split_gate_up
    ),
    "model.layers.{i}.mlp.experts.down_proj": Split((f"{_EXPERT}.down.weight",), split_down),
}

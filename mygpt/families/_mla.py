"""DeepSeek's multi-head latent attention (MLA) and experts: their configuration and weight names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mygpt.errors import InputError
from mygpt.families import _interleaved, _moe, llama
from mygpt.families._base import Split
from mygpt.families._fields import Fields
from mygpt.families._rope import yarn_score_factor
from mygpt.model.config import Config, MLAConfig, MoEConfig, RouterType

if TYPE_CHECKING:
    from torch import Tensor


def read_mla(fields: Fields) -> Config:
    """The configuration of a model with MLA, without its experts."""
    mla = MLAConfig(
        kv_lora_rank=fields.integer("kv_lora_rank", 512),
        qk_nope_head_dim=fields.integer("qk_nope_head_dim", 128),
        qk_rope_head_dim=fields.integer("qk_rope_head_dim", 64),
        v_head_dim=fields.integer("v_head_dim", 128),
        q_lora_rank=_query_rank(fields),
        interleaved=fields.flag("rope_interleave", True),
    )
    n_heads = fields.integer("num_attention_heads")
    if fields.integer("num_key_value_heads", n_heads) != n_heads:
        raise fields.error("num_key_value_heads", f"'num_attention_heads' ({n_heads})")
    # `read_llama` rotates a whole head, so it gets the rotated part as the head.
    config = llama.read_llama(Fields({**fields.raw, "head_dim": mla.qk_rope_head_dim}, fields.source))
    if config.rope.dim != mla.qk_rope_head_dim:
        raise InputError(f"{fields.source}: 'partial_rotary_factor' is not supported with latent attention")
    head_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    scale = head_dim**-0.5 * yarn_score_factor(fields, config.rope)
    return replace(config, head_dim=head_dim, mla=mla, attention_scale=scale, mlp_bias=False)


def _query_rank(fields: Fields) -> int:
    full = "q_lora_rank" in fields.raw and fields.raw["q_lora_rank"] is None
    return 0 if full else fields.integer("q_lora_rank", 1536)


def read_deepseek_moe(
    fields: Fields, n_layers: int, router: RouterType, *, grouped: bool, per_token: int | None = None
) -> MoEConfig:
    """The experts of DeepSeek's configurations. The family adds the defaults to `fields`."""
    n_experts, num_experts_per_tok = _moe.read_experts(fields, "n_routed_experts", per_token=per_token)
    n_group, topk_group = _read_groups(fields, n_experts, num_experts_per_tok) if grouped else (1, 1)
    dense, step = fields.count("first_k_dense_replace"), fields.integer("moe_layer_freq", 1)
    width = fields.integer("moe_intermediate_size")
    return MoEConfig(
        n_experts=n_experts,
        num_experts_per_tok=num_experts_per_tok,
        intermediate_size=width,
        norm_topk_prob=fields.flag("norm_topk_prob"),
        layers=tuple(i for i in range(dense, n_layers) if i % step == 0),
        shared_intermediate_size=fields.integer("n_shared_experts") * width,
        shared_gate=False,
        router=router,
        n_group=n_group,
        topk_group=topk_group,
        routed_scaling_factor=fields.number("routed_scaling_factor"),
    )


def _read_groups(fields: Fields, n_experts: int, num_experts_per_tok: int) -> tuple[int, int]:
    n_group, topk_group = fields.integer("n_group"), fields.integer("topk_group")
    if n_experts % n_group:
        raise fields.error("n_group", f"a divisor of 'n_routed_experts' ({n_experts})")
    size = n_experts // n_group
    if topk_group > n_group or topk_group * size < num_experts_per_tok:
        raise fields.error(
            "topk_group",
            f"at most 'n_group' ({n_group}), and enough for 'num_experts_per_tok' ({num_experts_per_tok}), "
            f"{size} experts each",
        )
    return n_group, topk_group


def require(fields: Fields, key: str, *known: str) -> str:
    """The value of a key; by default the first of `known`.

    Raises:
        InputError: the value is not in `known`.
    """
    value = fields.get(key, known[0])
    if value not in known:
        raise fields.error(key, " or ".join(map(repr, known)))
    return str(value)


def split_queries(tensor: Tensor, config: Config) -> tuple[Tensor]:
    """The query projection (heads of nope then rope rows, …), with the rope rows in the order of `rope.rotate`."""
    assert config.mla is not None
    return _by_halves(tensor, config.mla, config.head_dim)


def split_kv_down(tensor: Tensor, config: Config) -> tuple[Tensor]:
    """The down projection or its bias (latent rows, then the rope rows of the key, …), as `split_queries`."""
    assert config.mla is not None
    return _by_halves(tensor, config.mla, config.mla.kv_lora_rank + config.mla.qk_rope_head_dim)


def _by_halves(tensor: Tensor, mla: MLAConfig, size: int) -> tuple[Tensor]:
    """Reorder the rope rows, which are the last of each `size` rows."""
    if not mla.interleaved:
        return (tensor,)
    nope = size - mla.qk_rope_head_dim
    order = [*range(nope), *(nope + i for i in _interleaved.halves(mla.qk_rope_head_dim))]
    return (tensor.view(-1, size, *tensor.shape[1:])[:, order].view(tensor.shape),)


def split_keys_values(tensor: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """(heads of nope key rows then value rows, latent) to all heads' key rows and all value rows."""
    assert config.mla is not None
    heads = tensor.view(config.n_heads, -1, tensor.shape[1])
    nope = config.mla.qk_nope_head_dim
    return heads[:, :nope].flatten(0, 1), heads[:, nope:].flatten(0, 1)


_ATTENTION, _SHARED = "layers.{i}.attention", "layers.{i}.mlp.shared"
NAMES: dict[str, str | Split] = {
    **llama.NAMES,
    **_moe.NAMES,
    "model.layers.{i}.self_attn.q_proj.{p}": Split((f"{_ATTENTION}.q.{{p}}",), split_queries),
    "model.layers.{i}.self_attn.q_a_proj.{p}": f"{_ATTENTION}.q.down.{{p}}",
    "model.layers.{i}.self_attn.q_a_layernorm.weight": f"{_ATTENTION}.q.norm.weight",
    "model.layers.{i}.self_attn.q_b_proj.weight": Split((f"{_ATTENTION}.q.up.weight",), split_queries),
    "model.layers.{i}.self_attn.kv_a_proj_with_mqa.{p}": Split(
        (f"{_ATTENTION}.kv_down.{{p}}",), split_kv_down
    ),
    "model.layers.{i}.self_attn.kv_a_layernorm.weight": f"{_ATTENTION}.kv_norm.weight",
    "model.layers.{i}.self_attn.kv_b_proj.weight": Split(
        (f"{_ATTENTION}.key_up.weight", f"{_ATTENTION}.value_up.weight"), split_keys_values
    ),
    "model.layers.{i}.mlp.shared_experts.gate_proj.weight": f"{_SHARED}.gate.weight",
    "model.layers.{i}.mlp.shared_experts.up_proj.weight": f"{_SHARED}.up.weight",
    "model.layers.{i}.mlp.shared_experts.down_proj.weight": f"{_SHARED}.down.weight",
}

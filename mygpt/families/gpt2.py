"""GPT-2 (Radford et al., 2019): learned positions instead of a rotary embedding, layer norms, biases everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mygpt.errors import InputError
from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.model.config import Config, RopeConfig

if TYPE_CHECKING:
    from torch import Tensor


def _read_config(fields: Fields) -> Config:
    if fields.flag("add_cross_attention", False):
        raise InputError(f"{fields.source}: 'add_cross_attention' is not supported: there is no encoder")
    hidden_size, n_heads = fields.integer("n_embd", 768), fields.integer("n_head", 12)
    if hidden_size % n_heads:
        raise fields.error("n_embd", f"a multiple of 'n_head' ({n_heads})")
    positions = fields.integer("n_positions", 1024)
    return Config(
        vocab_size=fields.integer("vocab_size", 50257),
        n_layers=fields.integer("n_layer", 12),
        hidden_size=hidden_size,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=hidden_size // n_heads,
        intermediate_size=fields.integer("n_inner", 4 * hidden_size),
        context_length=positions,
        rope=RopeConfig(dim=0),
        learned_positions=positions,
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        mlp="plain",
        activation=fields.activation("activation_function", "gelu_new"),
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        attention_scale=None if fields.flag("scale_attn_weights", True) else 1.0,
        attention_scale_by_layer=fields.flag("scale_attn_by_inverse_layer_idx", False),
        tie_embeddings=fields.flag("tie_word_embeddings", True),
    )


def _transpose(tensor: Tensor, config: Config) -> tuple[Tensor]:
    """A matrix (in, out) of transformers' Conv1D to (out, in). A bias stays as it is."""
    return (tensor.t().contiguous(),)


def _split_qkv(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """(in, query then key then value columns) to q, k and v (out, in) each."""
    return tensor.t().chunk(3)


_NAMES: dict[str, str | Split] = {
    "wte.weight": "embed.weight",
    "wpe.weight": "position_embed.weight",
    "h.{i}.ln_1.{p}": "layers.{i}.attention_norm.{p}",
    "h.{i}.attn.c_attn.{p}": Split(
        ("layers.{i}.attention.q.{p}", "layers.{i}.attention.k.{p}", "layers.{i}.attention.v.{p}"), _split_qkv
    ),
    "h.{i}.attn.c_proj.{p}": Split(("layers.{i}.attention.output.{p}",), _transpose),
    "h.{i}.ln_2.{p}": "layers.{i}.mlp_norm.{p}",
    "h.{i}.mlp.c_fc.{p}": Split(("layers.{i}.mlp.up.{p}",), _transpose),
    "h.{i}.mlp.c_proj.{p}": Split(("layers.{i}.mlp.down.{p}",), _transpose),
    "ln_f.{p}": "norm.{p}",
}
_SKIPPED = ("h.{i}.attn.bias", "h.{i}.attn.masked_bias")  # the causal mask and its minus infinity

FAMILY = Family(
    model_type="gpt2",
    summary="GPT-2 and DistilGPT2",
    examples=("openai-community/gpt2", "openai-community/gpt2-xl", "distilbert/distilgpt2"),
    read_config=_read_config,
    # OpenAI's repositories have the names without the prefix.
    names={
        **_NAMES,
        **{f"transformer.{name}": ours for name, ours in _NAMES.items()},
        "lm_head.weight": "head.weight",
    },
    skipped=(*_SKIPPED, *(f"transformer.{name}" for name in _SKIPPED)),
)

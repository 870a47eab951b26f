"""Falcon (arXiv:2311.16867): 7B (multi-query, one norm), 40B and 180B (grouped queries, two norms), 11B."""

from mygpt.errors import InputError
from mygpt.families._base import Family, Split, split_grouped_qkv
from mygpt.families._fields import Fields
from mygpt.families._rope import context_length, read_rope
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    if fields.flag("alibi", False):
        raise InputError(
            f"{fields.source}: 'alibi' position biases are not supported, only rotary embeddings"
        )
    new = fields.flag("new_decoder_architecture", False)
    parallel = fields.flag("parallel_attn", True)
    if new and not parallel:
        raise fields.error("parallel_attn", "true with 'new_decoder_architecture'")
    head_dim = fields.head_dim()
    rope = read_rope(fields, head_dim)
    bias = fields.flag("bias", False)
    hidden_size = fields.integer("hidden_size")
    return Config(
        vocab_size=fields.integer("vocab_size"),
        n_layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        n_heads=fields.integer("num_attention_heads"),
        n_kv_heads=_kv_heads(fields, new),
        head_dim=head_dim,
        intermediate_size=fields.integer("ffn_hidden_size", 4 * hidden_size),
        context_length=context_length(fields, rope),
        rope=rope,
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        residual="parallel" if parallel else "sequential",
        shared_norm=parallel and not (new and fields.integer("num_ln_in_parallel_attn", 2) == 2),
        mlp="plain",
        activation=fields.activation("activation", "gelu"),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bias,
        tie_embeddings=fields.flag("tie_word_embeddings", True),
    )


def _kv_heads(fields: Fields, new: bool) -> int:
    if new:
        return fields.kv_heads("num_kv_heads", fields.integer("num_attention_heads"))
    return 1 if fields.flag("multi_query", True) else fields.integer("num_attention_heads")


FAMILY = Family(
    model_type="falcon",
    summary="Falcon 7B, 11B, 40B, 180B",
    examples=("tiiuae/falcon-7b-instruct", "tiiuae/falcon-11B", "tiiuae/falcon-40b", "tiiuae/falcon-180B"),
    read_config=_read_config,
    names={
        "transformer.word_embeddings.weight": "embed.weight",
        "transformer.h.{i}.input_layernorm.{p}": "layers.{i}.attention_norm.{p}",
        "transformer.h.{i}.ln_attn.{p}": "layers.{i}.attention_norm.{p}",
        "transformer.h.{i}.self_attention.query_key_value.{p}": Split(
            ("layers.{i}.attention.q.{p}", "layers.{i}.attention.k.{p}", "layers.{i}.attention.v.{p}"),
            split_grouped_qkv,
        ),
        "transformer.h.{i}.self_attention.dense.{p}": "layers.{i}.attention.output.{p}",
        "transformer.h.{i}.post_attention_layernorm.{p}": "layers.{i}.mlp_norm.{p}",
        "transformer.h.{i}.ln_mlp.{p}": "layers.{i}.mlp_norm.{p}",
        "transformer.h.{i}.mlp.dense_h_to_4h.{p}": "layers.{i}.mlp.up.{p}",
        "transformer.h.{i}.mlp.dense_4h_to_h.{p}": "layers.{i}.mlp.down.{p}",
        "transformer.ln_f.{p}": "norm.{p}",
        "lm_head.weight": "head.weight",
    },
    skipped=("transformer.h.{i}.self_attention.rotary_emb.inv_freq",),
)

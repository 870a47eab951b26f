"""GPT-NeoX (arXiv:2204.06745): Pythia, StableLM-alpha, RedPajama-INCITE, Dolly."""

from mygpt.families._base import Family, Split, split_grouped_qkv
from mygpt.families._fields import Fields
from mygpt.families._rope import context_length, read_rope
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    n_heads = fields.integer("num_attention_heads")
    head_dim = fields.head_dim()
    rope = read_rope(fields, head_dim, partial=fields.number("rotary_pct", 0.25), theta_key="rotary_emb_base")
    bias = fields.flag("attention_bias", True)
    return Config(
        vocab_size=fields.integer("vocab_size"),
        n_layers=fields.integer("num_hidden_layers"),
        hidden_size=fields.integer("hidden_size"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size"),
        context_length=context_length(fields, rope),
        rope=rope,
        norm="layer",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        residual="parallel" if fields.flag("use_parallel_residual", True) else "sequential",
        mlp="plain",
        activation=fields.activation("hidden_act", "gelu"),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=True,
        tie_embeddings=fields.flag("tie_word_embeddings", False),
    )


FAMILY = Family(
    model_type="gpt_neox",
    summary="Pythia, StableLM-alpha, RedPajama-INCITE, Dolly",
    examples=(
        "EleutherAI/pythia-1b",
        "stabilityai/stablelm-base-alpha-3b",
        "stabilityai/stablelm-tuned-alpha-3b",
        "togethercomputer/RedPajama-INCITE-Chat-3B-v1",
        "databricks/dolly-v2-3b",
    ),
    read_config=_read_config,
    names={
        "gpt_neox.embed_in.weight": "embed.weight",
        "gpt_neox.layers.{i}.input_layernorm.{p}": "layers.{i}.attention_norm.{p}",
        "gpt_neox.layers.{i}.attention.query_key_value.{p}": Split(
            ("layers.{i}.attention.q.{p}", "layers.{i}.attention.k.{p}", "layers.{i}.attention.v.{p}"),
            split_grouped_qkv,
        ),
        "gpt_neox.layers.{i}.attention.dense.{p}": "layers.{i}.attention.output.{p}",
        "gpt_neox.layers.{i}.post_attention_layernorm.{p}": "layers.{i}.mlp_norm.{p}",
        "gpt_neox.layers.{i}.mlp.dense_h_to_4h.{p}": "layers.{i}.mlp.up.{p}",
        "gpt_neox.layers.{i}.mlp.dense_4h_to_h.{p}": "layers.{i}.mlp.down.{p}",
        "gpt_neox.final_layer_norm.{p}": "norm.{p}",
        "embed_out.weight": "head.weight",
        "lm_head.weight": "head.weight",
    },
    skipped=(
        "gpt_neox.layers.{i}.attention.bias",
        "gpt_neox.layers.{i}.attention.masked_bias",
        "gpt_neox.layers.{i}.attention.rotary_emb.inv_freq",
    ),
)

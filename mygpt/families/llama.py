"""Llama and models of its architecture: Llama 1 to 3.3, TinyLlama, Vicuna, SmolLM2, Falcon 3, and many more."""

from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.families._rope import context_length, read_rope
from mygpt.model.config import Config

# Families that are Llama with small changes use them too.
NAMES: dict[str, str | Split] = {
    "model.embed_tokens.weight": "embed.weight",
    "model.layers.{i}.input_layernorm.weight": "layers.{i}.attention_norm.weight",
    "model.layers.{i}.self_attn.q_proj.{p}": "layers.{i}.attention.q.{p}",
    "model.layers.{i}.self_attn.k_proj.{p}": "layers.{i}.attention.k.{p}",
    "model.layers.{i}.self_attn.v_proj.{p}": "layers.{i}.attention.v.{p}",
    "model.layers.{i}.self_attn.o_proj.{p}": "layers.{i}.attention.output.{p}",
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_proj.{p}": "layers.{i}.mlp.gate.{p}",
    "model.layers.{i}.mlp.up_proj.{p}": "layers.{i}.mlp.up.{p}",
    "model.layers.{i}.mlp.down_proj.{p}": "layers.{i}.mlp.down.{p}",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
SKIPPED = ("model.layers.{i}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")


def read_llama(fields: Fields) -> Config:
    """The configuration of Llama. Its relatives change a few fields of it."""
    n_heads = fields.integer("num_attention_heads")
    head_dim = fields.head_dim()
    rope = read_rope(fields, head_dim, partial=fields.number("partial_rotary_factor", 1.0))
    bias = fields.flag("attention_bias", False)
    return Config(
        vocab_size=fields.integer("vocab_size"),
        n_layers=fields.integer("num_hidden_layers"),
        hidden_size=fields.integer("hidden_size"),
        n_heads=n_heads,
        n_kv_heads=fields.kv_heads("num_key_value_heads", n_heads),
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size"),
        context_length=context_length(fields, rope),
        rope=rope,
        norm="rms",
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        mlp="gated",
        activation=fields.activation("hidden_act", "silu"),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
    )


FAMILY = Family(
    model_type="llama",
    summary="Llama 1 to 3.3, CodeLlama, Vicuna, LongChat, TinyLlama, OpenLLaMA, SmolLM2, DeepSeek-R1-Distill, "
    "Falcon 3, Salamandra, Platypus, Stable Beluga, Nous Hermes, Granite Code 3B and 8B",
    examples=(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
        "meta-llama/Llama-2-70b-chat-hf",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "lmsys/vicuna-7b-v1.5",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    ),
    read_config=read_llama,
    names=NAMES,
    skipped=SKIPPED,
)

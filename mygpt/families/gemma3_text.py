"""Gemma 3's language model (arXiv:2503.19786): five of six layers have a window, and a rope of their own."""

from dataclasses import replace

from mygpt.families import gemma2
from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.families._rope import read_rope, with_rope_of
from mygpt.families.gemma import read_gemma
from mygpt.families.llama import SKIPPED
from mygpt.model.config import Config

NAMES: dict[str, str | Split] = {
    **gemma2.NAMES,
    "model.layers.{i}.self_attn.q_norm.weight": "layers.{i}.attention.qk_norm.q.weight",
    "model.layers.{i}.self_attn.k_norm.weight": "layers.{i}.attention.qk_norm.k.weight",
}
# From transformers' Gemma3TextConfig. The multimodal repositories leave out keys with these values.
_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}


def read_gemma3(fields: Fields) -> Config:
    """The configuration of the language model, alone or in a multimodal repository."""
    fields = Fields({**_DEFAULTS, **fields.raw}, fields.source)
    # The file may have Gemma 2's `attn_logit_softcapping`. It is not applied, as in transformers.
    config = read_gemma(with_rope_of(fields, "full_attention", theta=1_000_000.0))
    local = with_rope_of(fields, "sliding_attention", theta=10_000.0, theta_key="rope_local_base_freq")
    pattern = fields.integer("sliding_window_pattern", 6)
    sliding = [(i + 1) % pattern != 0 for i in range(config.n_layers)]
    return replace(
        config,
        residual="sandwich",
        qk_norm="head",
        context_length=fields.integer("max_position_embeddings"),  # with the rope's factor already
        window_rope=read_rope(local, config.head_dim),
        layer_windows=fields.windows(fields.integer("sliding_window", 4096), sliding),
        attention_scale=fields.number("query_pre_attn_scalar", 256) ** -0.5,
        logits_softcap=fields.optional("final_logit_softcapping"),
    )


FAMILY = Family(
    model_type="gemma3_text",
    summary="Gemma 3 270M, 1B",
    examples=("google/gemma-3-1b-it", "google/gemma-3-270m-it"),
    read_config=read_gemma3,
    names=NAMES,
    skipped=SKIPPED,
)

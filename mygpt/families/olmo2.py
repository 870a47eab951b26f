"""OLMo 2 (arXiv:2501.00656): Llama with norms after attention and MLP, and over all queries and all keys."""

from dataclasses import replace

from mygpt.families import llama
from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.model.config import Config

# OLMo 3 and EXAONE 4 use them too.
NAMES: dict[str, str | Split] = {
    **{name: ours for name, ours in llama.NAMES.items() if "layernorm" not in name},
    "model.layers.{i}.self_attn.q_norm.weight": "layers.{i}.attention.qk_norm.q.weight",
    "model.layers.{i}.self_attn.k_norm.weight": "layers.{i}.attention.qk_norm.k.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.attention_post_norm.weight",
    "model.layers.{i}.post_feedforward_layernorm.weight": "layers.{i}.mlp_post_norm.weight",
}


def read_olmo2(fields: Fields) -> Config:
    """The configuration of OLMo 2. OLMo 3 adds windows to it."""
    return replace(
        llama.read_llama(fields),
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        residual="post",
        qk_norm="width",
        mlp_bias=False,
    )


FAMILY = Family(
    model_type="olmo2",
    summary="OLMo 2 1B to 32B",
    examples=("allenai/OLMo-2-0425-1B-Instruct", "allenai/OLMo-2-1124-7B-Instruct"),
    read_config=read_olmo2,
    names=NAMES,
    skipped=llama.SKIPPED,
)

"""Command R, Command R+ and Aya 23 (Cohere): attention and MLP in parallel, after one layer norm without bias."""

from dataclasses import replace

from mygpt.families import _interleaved
from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.families.llama import SKIPPED, read_llama
from mygpt.model.config import Config

_DEFAULTS = {"tie_word_embeddings": True, "max_position_embeddings": 8192}


def read_cohere(fields: Fields) -> Config:
    """The configuration that all generations of Command R share."""
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    return replace(
        config,
        # Command R has this key beside the 8192 positions of its pre-training.
        context_length=fields.integer("model_max_length", config.context_length),
        norm="layer_no_bias",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        residual="parallel",
        shared_norm=True,
        mlp_bias=False,
        logits_scale=fields.number("logit_scale", 0.0625),
    )


def _read_config(fields: Fields) -> Config:
    config = read_cohere(Fields({"rope_theta": 500_000.0, **fields.raw}, fields.source))
    return replace(config, qk_norm="own_head" if fields.flag("use_qk_norm", False) else "none")


FAMILY = Family(
    model_type="cohere",
    summary="Command R, Command R+, Aya 23",
    examples=(
        "CohereLabs/c4ai-command-r-v01",
        "CohereLabs/c4ai-command-r-plus-08-2024",
        "CohereLabs/aya-23-8B",
    ),
    read_config=_read_config,
    names={
        **_interleaved.NAMES,
        "model.layers.{i}.self_attn.q_norm.weight": Split(
            ("layers.{i}.attention.q_norm.{h}.weight",), _interleaved.split_own_norms
        ),
        "model.layers.{i}.self_attn.k_norm.weight": Split(
            ("layers.{i}.attention.k_norm.{h}.weight",), _interleaved.split_own_norms
        ),
    },
    skipped=SKIPPED,
)

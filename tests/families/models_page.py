"""Writes the generated part of `tutorials/models.md`: `python -m tests.families.models_page`."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from mygpt.families import FAMILIES, read_config
from mygpt.families._rope import _known_ropes
from mygpt.model.config import Config
from tests.families.variants import VARIANTS

PAGE = Path(__file__).parents[2] / "tutorials" / "models.md"
BEGIN, END = "<!-- families: generated -->\n", "<!-- families: end -->\n"

NORMS = {
    "rms": "RMSNorm",
    "rms_one_plus": "RMSNorm by 1 + weight",
    "layer": "LayerNorm",
    "layer_no_bias": "LayerNorm without bias",
    "layer_plain": "LayerNorm without weights",
}
RESIDUALS = {
    "sequential": "",
    "parallel": "parallel residual",
    "post": "norms after attention and MLP",
    "sandwich": "norms before and after attention and MLP",
}
# The feature that each field of `Config` makes; "" for the value of most models.
FEATURES: dict[str, Callable[[Config], str]] = {
    "norm": lambda c: NORMS[c.norm],
    "residual": lambda c: RESIDUALS[c.residual],
    "shared_norm": lambda c: "one norm for attention and MLP" * c.shared_norm,
    "mlp": lambda c: f"{c.mlp} MLP",
    "moe": lambda c: _experts(c),
    "mla": lambda c: "latent attention" * (c.mla is not None),
    "clamped_swiglu": lambda c: "clamped SwiGLU" * (c.clamped_swiglu is not None),
    "rope": lambda c: "partial rotary" * (c.mla is None and 0 < c.rope.dim < c.head_dim),
    "window_rope": lambda c: "another rope in layers with a window" * (c.window_rope is not None),
    "layer_windows": lambda c: ("windows" if all(c.windows) else "windows in some layers") * any(c.windows),
    "unrotated_layers": lambda c: "layers without rope" * bool(c.unrotated_layers),
    "learned_positions": lambda c: "learned positions" * (c.learned_positions > 0),
    "qk_norm": lambda c: "QK norm" * (c.qk_norm != "none"),
    "clip_qkv": lambda c: "clipped QKV" * (c.clip_qkv is not None),
    "attention_softcap": lambda c: "softcapped scores" * (c.attention_softcap is not None),
    "query_scaling": lambda c: "queries scaled by position" * (c.query_scaling is not None),
    "attention_sinks": lambda c: "attention sinks" * c.attention_sinks,
    "attention_bias": lambda c: "QKV biases" * c.attention_bias,
    "attention_output_bias": lambda c: "attention output bias" * c.attention_output_bias,
    "mlp_bias": lambda c: "MLP biases" * c.mlp_bias,
    "head_bias": lambda c: "head bias" * c.head_bias,
    "tie_embeddings": lambda c: "tied embeddings" * c.tie_embeddings,
    "embedding_scale": lambda c: "scaled embeddings" * (c.embedding_scale != 1),
    "residual_scale": lambda c: "scaled residuals" * (c.residual_scale != 1),
    "attention_scale": lambda c: "scaled scores" * (c.attention_scale not in (None, c.head_dim**-0.5)),
    "attention_scale_by_layer": lambda c: "scores scaled by layer" * c.attention_scale_by_layer,
    "logits_scale": lambda c: "scaled logits" * (c.logits_scale != 1),
    "logits_softcap": lambda c: "softcapped logits" * (c.logits_softcap is not None),
}
SIZES = {"vocab_size", "n_layers", "hidden_size", "n_heads", "n_kv_heads", "head_dim", "intermediate_size"}
NO_FEATURES = SIZES | {"context_length", "norm_eps", "activation"}


def _experts(config: Config) -> str:
    if (moe := config.moe) is None:
        return ""
    words = {
        "experts": True,
        "a shared expert": moe.shared_intermediate_size > 0,
        "experts in groups": moe.n_group > 1,
        "sigmoid routing": moe.router == "sigmoid",
        "some layers without experts": len(moe.layers) < config.n_layers,
    }
    return ", ".join(word for word, holds in words.items() if holds)


def features(model_type: str) -> str:
    """What the family's default has, then what its other variants of the tests have."""
    configs = [
        read_config(variant.tiny_config().to_dict())[1]
        for variant in VARIANTS
        if variant.config.model_type == model_type
    ]
    own, *others = [_words(config) for config in configs]
    optional = {word: None for words in others for word in words if word not in own}
    return ", ".join(own) + ("; optional: " + ", ".join(optional) if optional else "")


def _words(config: Config) -> list[str]:
    said = (FEATURES[field.name](config) for field in fields(Config) if field.name not in NO_FEATURES)
    return ", ".join(word for word in said if word).split(", ")


def generated() -> str:
    """The table of families, in the order of `mygpt download list`, and the rope types."""
    rows = ["| model_type | models | features | for example |", "| --- | --- | --- | --- |"]
    for _, family in sorted(FAMILIES.items()):
        examples = ", ".join(f"`{example}`" for example in family.examples)
        rows.append(
            f"| `{family.model_type}` | {family.summary} | {features(family.model_type)} | {examples} |"
        )
    return "\n".join([*rows, "", f"Rope types: {_known_ropes()}.", ""])


def renewed(page: str) -> str:
    """The page with its generated part as the code has it now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + generated() + END + after


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")

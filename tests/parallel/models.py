"""The tiny models of `tests/families`, in sizes that several devices can share."""

from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig

from tests.families.variants import VARIANTS, Variant, variant
from tests.families.variants.base import TINY

# The first variant of each model_type, and what the ways to share out a model have to treat by itself.
FIRST = [*{v.config.model_type: v for v in reversed(VARIANTS)}.values()][::-1]
SWITCHES = [
    "llama-mha",
    "llama-mqa",
    "llama-tied",
    "llama-attention-bias",
    "llama-mlp-bias",
    "llama-dynamic",
    "gpt2-untied",
    "falcon-bias",
    "falcon-40b",
    "falcon-11b",
    "olmo-clipped",
    "phi-qk-norm",
    "phi3-window",
    "seed-oss-switched",
    "stablelm-qk-norm",
    "stablelm-parallel-qk-norm",
    "cohere-qk-norm",
    "olmo3-bias",
    "qwen2-moe-mlp-only",
    "qwen3-moe-bias",
    "gpt-oss-mqa",
    "gpt-oss-mha",
    "gpt-oss-tied",
    "deepseek-v2-lite",
    "deepseek-v2-all-experts",
    "deepseek-v3-bias",
]
ALL = [*FIRST, *map(variant, SWITCHES)]

# On more processes than there are cores, and so slow: those with something to a head of which there are fewer.
FEW = [*FIRST, *map(variant, ["llama-mqa", "gpt-oss-mqa", "stablelm-qk-norm", "olmo3-bias"])]
# Whose caches, one of each kind, are used in all ways.
MANY_CACHES = (
    "llama-gqa",
    "llama-dynamic",
    "mistral-window",
    "gemma3",
    "gpt2",
    "gpt-oss",
    "qwen2-moe",
    "deepseek-v2",
)

# Key-value heads by the number of devices: several to each, one to each, or one to several.
KV_HEADS = {2: 4, 3: 3, 4: 2}
_SIZES = {
    **dict.fromkeys(["num_attention_heads", "n_head"], 12),
    **dict.fromkeys(["hidden_size", "n_embd", "intermediate_size", "ffn_hidden_size", "n_inner"], 96),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 48),
    "vocab_size": 125,  # that nothing divides
}
_LAYERS = ("num_hidden_layers", "n_layer")


def divisible(chosen: Variant, devices: int) -> Variant:
    """The variant in sizes that so many devices divide."""
    values = {**TINY[chosen.config], **chosen.changes}
    return replace(chosen, changes=_resized(values, devices))


def _resized(values: dict[str, Any], devices: int) -> dict[str, Any]:
    sized = {key: _size(key, value, devices) for key, value in values.items()}
    if "layer_types" not in values:  # which is as long as there are layers
        sized.update({key: max(3, sized[key]) for key in _LAYERS if key in sized and devices == 3})
    return sized


def _size(key: str, value: Any, devices: int) -> Any:
    if key == "text_config" and isinstance(value, PretrainedConfig):
        return type(value)(**_resized(value.to_dict(), devices))
    if key == "text_config":
        return _resized(value, devices)
    if key in ("num_key_value_heads", "num_kv_heads"):
        return {2: KV_HEADS[devices], 6: 12}.get(value, value)
    return value if value is None else _SIZES.get(key, value)

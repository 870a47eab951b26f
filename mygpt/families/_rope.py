"""The rotary embedding of a `config.json`, in its new spelling (`rope_parameters`) or its old one (`rope_scaling`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from mygpt.errors import InputError
from mygpt.families._fields import LEAST_NUMBER, MOST_NUMBER, Fields
from mygpt.model.config import RopeConfig, RopeType

# The known keys beside `rope_type`. An unknown one may change the mathematics, so it is refused.
_ROPE_KEYS: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "factor", "beta_fast", "beta_slow", "attention_factor", "attn_factor", "mscale", "mscale_all_dim", "truncate",
    ),
    "longrope": ("short_factor", "long_factor", "factor", "attention_factor"),
    "divisors": ("divisors",),
}  # fmt: skip
_HARMLESS_ROPE_KEYS = (
    "type", "rope_type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings",
    "max_position_embeddings", "finetuned",
)  # fmt: skip


def read_rope(
    model: Fields, head_dim: int, *, partial: float = 1.0, theta_key: str = "rope_theta"
) -> RopeConfig:
    """The rotary embedding; `partial` is the default of the rotated share of a head.

    Raises:
        InputError: an unknown type, or an unknown key beside it.
    """
    scaling = _scaling(model)
    type_ = scaling.get("rope_type", scaling.get("type", "default"))
    type_ = "longrope" if type_ == "su" else type_  # its old name
    if not isinstance(type_, str) or type_ not in _ROPE_KEYS:
        raise InputError(
            f"{scaling.source}: the rope type {type_!r} is not supported; known are {_known_ropes()}"
        )
    for key in scaling.raw:
        if key not in _ROPE_KEYS[type_] + _HARMLESS_ROPE_KEYS:
            raise InputError(f"{scaling.source}: '{key}' is not understood for the rope type {type_!r}")
    dim = int(head_dim * scaling.number("partial_rotary_factor", partial))
    if dim % 2 or not 0 < dim <= head_dim:
        raise InputError(
            f"{model.source}: {dim} rotary dimensions of {head_dim} a head; it must be an even number"
        )
    rope = RopeConfig(dim, scaling.number("rope_theta", model.number(theta_key, 10_000.0)), type_)
    return _ROPE_READERS[rope.type](model, scaling, rope)


def with_rope_of(model: Fields, kind: str, *, theta: float, theta_key: str = "rope_theta") -> Fields:
    """`config.json` with the rope of one kind of layer (see `layer_types`) as the rope of all layers.

    `theta` is the default of the base. The old spelling has the base under `theta_key`, and its scaling is of the
    layers with full attention only.
    """
    theta = model.number(theta_key, theta)
    parameters = model.get("rope_parameters", {})
    if not parameters:
        scaling = model.raw.get("rope_scaling") if kind == "full_attention" else None
        return Fields({**model.raw, "rope_theta": theta, "rope_scaling": scaling}, model.source)
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(parameters, dict) or not {*parameters} <= {*kinds}:
        raise model.error("rope_parameters", f"an object with the keys {' and '.join(kinds)}")
    if not isinstance(parameters.get(kind) or {}, dict):
        raise model.error("rope_parameters", f"an object, with one under '{kind}'")
    own = {"rope_theta": theta, **(parameters.get(kind) or {})}
    if kind == "sliding_attention" and own.get("rope_type") in ("dynamic", "longrope"):
        # The decode loop calls `RotaryEmbedding.outdates_cache` for the other layers' rope only.
        raise InputError(f"{model.source}: the rope type {own['rope_type']!r} is not supported for '{kind}'")
    return Fields({**model.raw, "rope_parameters": own}, model.source)


def _scaling(model: Fields) -> Fields:
    if (ratio := model.raw.get("rope_condense_ratio")) and not model.raw.get("rope_scaling"):
        # LongChat's key, older than `rope_scaling`. Its authors patched transformers, which ignores the key.
        return Fields({"type": "linear", "factor": ratio}, f"{model.source}: 'rope_condense_ratio'")
    key = "rope_parameters" if model.raw.get("rope_parameters") else "rope_scaling"
    values = model.get(key, {})
    if not isinstance(values, dict):
        raise model.error(key, "an object")
    return Fields(values, f"{model.source}: '{key}'")


def yarn_score_factor(model: Fields, rope: RopeConfig) -> float:
    """DeepSeek's factor of the attention scores, beside that of cos and sin; 1 without `mscale_all_dim`."""
    scaling = _scaling(model)
    if rope.type != "yarn" or not scaling.raw.get("mscale_all_dim"):
        return 1.0
    return _yarn_magnitude(rope.factor, scaling.number("mscale_all_dim")) ** 2


def context_length(model: Fields, rope: RopeConfig) -> int:
    """The model's context in tokens: the positions of pre-training, times the factor of some rope types.

    Repositories with `linear` and `dynamic` give the positions without the factor, those with `yarn` either way.
    """
    positions = model.integer("max_position_embeddings", 2048)
    length = positions
    if rope.type in ("linear", "dynamic"):
        length = int(positions * rope.factor)
    if rope.type == "yarn":
        length = max(positions, int(rope.original_max_positions * rope.factor))
    if not 0 < length < 2**31:
        raise InputError(
            f"{model.source}: the rope's 'factor' makes a context of {length} tokens of {positions}"
        )
    return length


def _known_ropes() -> str:
    return ", ".join(name for name in _ROPE_KEYS if name != "divisors")  # only GGUF files have it


def _original_positions(model: Fields, scaling: Fields) -> int:
    """The model's own key comes first, as in transformers (Phi-3 repositories rely on it)."""
    default = scaling.integer(
        "original_max_position_embeddings", model.integer("max_position_embeddings", 2048)
    )
    return model.integer("original_max_position_embeddings", default)


def _read_plain(model: Fields, scaling: Fields, rope: RopeConfig) -> RopeConfig:
    return rope


def _read_linear(model: Fields, scaling: Fields, rope: RopeConfig) -> RopeConfig:
    return replace(rope, factor=scaling.number("factor"))


def _read_dynamic(model: Fields, scaling: Fields, rope: RopeConfig) -> RopeConfig:
    if rope.dim < 4:
        raise InputError(f"{model.source}: the rope type 'dynamic' needs 4 rotary dimensions, not {rope.dim}")
    positions = model.integer("max_position_embeddings", 2048)
    return replace(rope, factor=scaling.number("factor"), original_max_positions=positions)


def _read_llama3(model: Fields, scaling: Fields, rope: RopeConfig) -> RopeConfig:
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if high <= low:
        raise scaling.error("high_freq_factor", f"above 'low_freq_factor' ({low})")
    return replace(
        rope,
        factor=scaling.number("factor"),
        original_max_positions=_original_positions(model, scaling),
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _read_yarn(model: Fields, scaling: Fields, rope: RopeConfig) -> RopeConfig:
    original = _original_positions(model, scaling)
    if rope.theta <= 1:
        raise InputError(
            f"{model.source}: 'rope_theta' must be above 1 for the rope type 'yarn', it is {rope.theta}"
        )
    factor = scaling.number("factor", model.integer("max_position_embeddings", 2048) / original)
    # 0 counts as absent, as in transformers.
    mscales = [scaling.number(key) if scaling.raw.get(key) else None for key in ("mscale", "mscale_all_dim")]
    # DeepSeek-R1-0528-Qwen3-8B has `attn_factor`. vLLM multiplies by it, and gets exactly 1; transformers ignores it.
    default = _yarn_attention_factor(factor, *mscales) * scaling.number("attn_factor", 1.0)
    return replace(
        rope,
        factor=factor,
        original_max_positions=original,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        attention_factor=scaling.number("attention_factor", default),
        truncate=scaling.flag("truncate", True),
    )


def _yarn_attention_factor(factor: float, mscale: float | None, mscale_all_dim: float | None) -> float:
    """YaRN's default factor of cos and sin (arXiv:2309.00071, section 3.4)."""
    if mscale and mscale_all_dim:
        return _yarn_magnitude(factor, mscale) / _yarn_magnitude(factor, mscale_all_dim)
    return _yarn_magnitude(factor, 1.0)


def _yarn_magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _read_longrope(model: Fields, scaling: Fields, rope: RopeConfig) -> RopeConfig:
    original = _original_positions(model, scaling)
    if original < 2:
        raise InputError(
            f"{model.source}: 'original_max_position_embeddings' must be above 1, it is {original}"
        )
    factor = scaling.number("factor", model.integer("max_position_embeddings", 2048) / original)
    default = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return replace(
        rope,
        original_max_positions=original,
        attention_factor=scaling.number("attention_factor", default),
        divisors=_numbers(scaling, "short_factor", rope.dim // 2),
        long_divisors=_numbers(scaling, "long_factor", rope.dim // 2),
    )


def _read_divisors(model: Fields, scaling: Fields, rope: RopeConfig) -> RopeConfig:
    return replace(rope, divisors=_numbers(scaling, "divisors", rope.dim // 2))


def _numbers(scaling: Fields, key: str, count: int) -> tuple[float, ...]:
    values = scaling.get(key)
    numbers = isinstance(values, list) and all(
        type(value) in (int, float) and LEAST_NUMBER < value < MOST_NUMBER for value in values
    )
    if not numbers or len(values) != count:
        raise scaling.error(key, f"a list of {count} numbers above 0")
    return tuple(float(value) for value in values)


_ROPE_READERS: dict[RopeType, Callable[[Fields, Fields, RopeConfig], RopeConfig]] = {
    "default": _read_plain,
    "linear": _read_linear,
    "dynamic": _read_dynamic,
    "llama3": _read_llama3,
    "yarn": _read_yarn,
    "longrope": _read_longrope,
    "divisors": _read_divisors,
}

"""Typed access to `config.json`. Errors name the key, its value and the values that it may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mygpt.errors import InputError
from mygpt.model.config import Activation

_REQUIRED = object()

# Larger numbers are no model's, and would take hours or all memory before they are compared with the weights.
_MOST = 2**31 - 1
_WIDTHS = ("vocab_size", "hidden_size", "n_embd", "intermediate_size", "ffn_hidden_size", "n_inner")
_MORE_WIDTHS = (
    "moe_intermediate_size", "shared_expert_intermediate_size", "kv_lora_rank", "q_lora_rank",
)  # fmt: skip
_HEADS = ("num_attention_heads", "n_head", "num_key_value_heads", "num_kv_heads")
_MOST_OF = {
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 1024),
    **dict.fromkeys((*_WIDTHS, *_MORE_WIDTHS), 2**22),
    **dict.fromkeys(_HEADS, 4096),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 2**16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts"), 4096),
}
# Decimal numbers become float32.
LEAST_NUMBER, MOST_NUMBER = 1e-37, 1e37

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class Fields:
    """Typed access to `config.json`. Each method raises InputError for a wrong value.

    A key that is absent or null takes the default. Without a default, the key is required.
    """

    raw: Mapping[str, Any]
    source: str = "config.json"

    def error(self, key: str, expected: str) -> InputError:
        """The error for a key with a wrong value."""
        return InputError(f"{self.source}: '{key}' must be {expected}, it is {self.raw.get(key)!r}")

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a key, of any type."""
        value = self.raw.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise InputError(f"{self.source}: '{key}' is missing; is the file complete?")
        return default

    def integer(self, key: str, default: Any = _REQUIRED) -> int:
        """A whole number above zero."""
        value = self.get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(key, "a whole number above 0")
        if value > (most := _MOST_OF.get(key, _MOST)):
            raise InputError(f"{self.source}: '{key}' must be at most {most}, it is {value}")
        return value

    def count(self, key: str, default: Any = _REQUIRED) -> int:
        """A whole number, zero or above."""
        value = self.get(key, default)
        if type(value) is not int or not 0 <= value <= _MOST:
            raise self.error(key, f"a whole number from 0 to {_MOST}")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A number above zero, within what float32 can hold."""
        value = self.get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not value > 0:
            raise self.error(key, "a number above 0")
        if not LEAST_NUMBER < value < MOST_NUMBER:
            raise self.error(key, f"between {LEAST_NUMBER} and {MOST_NUMBER}")
        return float(value)

    def optional(self, key: str, absent: float | None = None) -> float | None:
        """A finite number above zero; None for null, `absent` if there is no such key."""
        if key not in self.raw:
            return absent
        return None if self.raw[key] is None else self.number(key)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def activation(self, key: str, default: Any = _REQUIRED) -> Activation:
        """The name of an activation function."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.error(key, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def head_dim(self) -> int:
        """`head_dim`, else the hidden size divided by the number of heads."""
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        if self.raw.get("head_dim") is not None:
            return self.integer("head_dim")
        if hidden % heads:
            raise self.error("hidden_size", f"a multiple of 'num_attention_heads' ({heads})")
        return hidden // heads

    def kv_heads(self, key: str, default: int) -> int:
        """The number of key-value heads, a divisor of the number of query heads."""
        heads, kv_heads = self.integer("num_attention_heads"), self.integer(key, default)
        if heads % kv_heads:
            raise self.error(key, f"a divisor of 'num_attention_heads' ({heads})")
        return kv_heads

    def window_everywhere(self, n_layers: int) -> tuple[int, ...]:
        """`sliding_window` for each layer; 0 (no window) if it is null or absent."""
        has_window = self.raw.get("sliding_window") is not None
        return (self.integer("sliding_window") if has_window else 0,) * n_layers

    def windows(self, window: int, sliding: Sequence[bool]) -> tuple[int, ...]:
        """The sliding window of each layer (0: none): by `layer_types`, else where `sliding` is true."""
        types = self.get("layer_types", None)
        if types is not None:
            kinds = {"full_attention": False, "sliding_attention": True}
            listed = isinstance(types, list) and all(isinstance(kind, str) for kind in types)
            if not listed or len(types) != len(sliding) or not {*types} <= {*kinds}:
                raise self.error("layer_types", f"a list of {len(sliding)} of {', '.join(kinds)}")
            sliding = [kinds[kind] for kind in types]
        return tuple(window if slides else 0 for slides in sliding)

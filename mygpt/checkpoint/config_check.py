"""Compares the numbers of `config.json` with the headers of the weight files, before a model is built by them."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from mygpt.checkpoint.base import Checkpoint
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.families._base import Family
from mygpt.model.config import Config

_NUMBER = re.compile(r"(?<=\.)[0-9]{1,9}(?=\.)")  # of a layer, expert or head in a name
_AGAIN = "download the checkpoint again"

_HIDDEN, _WIDTH = ("hidden_size",), ("intermediate_size",)
_QUERIES, _KEYS = ("n_heads", "head_dim"), ("n_kv_heads", "head_dim")
_EXPERT, _SHARED = ("moe.intermediate_size",), ("moe.shared_intermediate_size",)
# The rows and columns of our weights, as products of fields of `Config`. `#` is a number.
_SIZES = {
    "embed.weight": (("vocab_size",), _HIDDEN),
    "position_embed.weight": (("learned_positions",), _HIDDEN),
    "layers.#.attention.q.weight": (_QUERIES, _HIDDEN),
    "layers.#.attention.k.weight": (_KEYS, _HIDDEN),
    "layers.#.attention.v.weight": (_KEYS, _HIDDEN),
    "layers.#.attention.output.weight": (_HIDDEN, _QUERIES),
    "layers.#.attention.q.down.weight": (("mla.q_lora_rank",), _HIDDEN),
    "layers.#.attention.q.up.weight": (_QUERIES, ("mla.q_lora_rank",)),
    "layers.#.attention.kv_norm.weight": (("mla.kv_lora_rank",),),
    "layers.#.attention.key_up.weight": (("n_heads", "mla.qk_nope_head_dim"), ("mla.kv_lora_rank",)),
    "layers.#.attention.value_up.weight": (("n_heads", "mla.v_head_dim"), ("mla.kv_lora_rank",)),
    "layers.#.mlp.gate.weight": (_WIDTH, _HIDDEN),
    "layers.#.mlp.up.weight": (_WIDTH, _HIDDEN),
    "layers.#.mlp.down.weight": (_HIDDEN, _WIDTH),
    "layers.#.mlp.router.weight": (("moe.n_experts",), _HIDDEN),
    "layers.#.mlp.experts.#.gate.weight": (_EXPERT, _HIDDEN),
    "layers.#.mlp.experts.#.up.weight": (_EXPERT, _HIDDEN),
    "layers.#.mlp.experts.#.down.weight": (_HIDDEN, _EXPERT),
    "layers.#.mlp.shared.gate.weight": (_SHARED, _HIDDEN),
    "layers.#.mlp.shared.mlp.gate.weight": (_SHARED, _HIDDEN),
}
_MLA_SIZES = {"layers.#.attention.output.weight": (_HIDDEN, ("n_heads", "mla.v_head_dim"))}
# What `config.json` calls the fields; the first is told where it has none of them.
_KEYS_OF = {
    "n_layers": ("num_hidden_layers", "n_layer"),
    "hidden_size": ("hidden_size", "n_embd"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "n_heads": ("num_attention_heads", "n_head"),
    "n_kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "learned_positions": ("n_positions",),
    "moe.n_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "moe.intermediate_size": ("moe_intermediate_size", "intermediate_size"),
    "moe.shared_intermediate_size": ("shared_expert_intermediate_size", "n_shared_experts"),
}


def checked_config(checkpoint: Checkpoint) -> tuple[Family, Config]:
    """The family and architecture of a checkpoint, as `read_config`, its sizes those of the weight files.

    Of the tensors that layers and experts repeat, the first of each kind is compared. `fill` compares all, once the
    model is built; this sees that it can be.

    Raises:
        InputError: what `read_config` refuses, or a size is not that of the files: its key, its value and the
            tensor are told.
    """
    family, config = read_config(checkpoint.config, str(checkpoint.path))
    shapes = checkpoint.shapes()
    kinds: dict[str, str] = {}  # a name for each kind of tensor
    last: dict[str, int] = {}  # of each kind of tensor in layers, the last layer
    for name in shapes:
        kind = _kind(name)
        kinds.setdefault(kind, name)
        if kind != name and (layer := _NUMBER.search(name)) is not None:
            last[kind] = max(last.get(kind, 0), int(layer[0]))
    layers = 0
    for kind, name in kinds.items():
        ours = family.targets(name, config)
        if any(target.startswith("layers.") for target in ours):
            layers = max(layers, last.get(kind, 0) + 1)
        codes = f"{name}.absmax" in shapes or f"{name}.quant_map" in shapes  # in 4 bits, of another shape
        if not codes:
            _compare(name, shapes[name][0], ours, config, checkpoint)
    if layers < config.n_layers:
        told = _told("n_layers", config, checkpoint.config)
        raise InputError(f"{checkpoint.path}: {told}, but the weights are those of {layers} layers; {_AGAIN}")
    return family, config


def _compare(
    name: str, shape: torch.Size, ours: tuple[str, ...], config: Config, checkpoint: Checkpoint
) -> None:
    """See that one of the file's tensors has as many numbers as those of ours that it is made of."""
    sizes = {**_SIZES, **(_MLA_SIZES if config.mla else {})}
    parts = [sizes.get(_kind(target)) for target in ours]
    known = [part for part in parts if part is not None]
    fields = list(dict.fromkeys(field for part in known for size in part for field in size))
    values = {field: _value(field, config) for field in fields}
    if not known or len(known) < len(parts) or None in values.values():
        return
    expected = sum(math.prod(values[field] or 0 for size in part for field in size) for part in known)
    if shape.numel() != expected:
        if len({*map(_kind, ours)}) < len(ours):  # all experts in one
            fields.append("moe.n_experts")
        told = " and ".join(_told(field, config, checkpoint.config) for field in fields)
        raise InputError(f"{checkpoint.path}: {told} do not fit {name} of shape {tuple(shape)}; {_AGAIN}")


def _kind(name: str) -> str:
    """A name without its numbers."""
    return _NUMBER.sub("#", name)


def _value(field: str, config: Config) -> int | None:
    """A field of the config or of a part of it, None where there is no such part."""
    holder: Any = config
    for name in field.split("."):
        holder = getattr(holder, name) if holder is not None else None
    return holder if isinstance(holder, int) else None


def _told(field: str, config: Config, raw: dict[str, Any]) -> str:
    """The key of a field and its value, as `config.json` has them."""
    text = raw.get("text_config")  # a multimodal repository's
    holders = (raw, text if isinstance(text, dict) else {})
    keys = _KEYS_OF.get(field, (field.rpartition(".")[2],))
    for key in keys:
        for holder in holders:
            if holder.get(key) is not None:
                return f"'{key}' {holder[key]}"
    return f"'{keys[0]}' {_value(field, config)}"

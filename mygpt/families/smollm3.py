"""SmolLM3 (Hugging Face): Llama without a rotary embedding in every fourth layer."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config

_DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "rope_theta": 2_000_000.0,
    "tie_word_embeddings": True,
}


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    interval = fields.integer("no_rope_layer_interval", 4)
    # In spite of the name, 1 marks a layer with rope.
    rotated = fields.get("no_rope_layers", [int((i + 1) % interval != 0) for i in range(config.n_layers)])
    if not isinstance(rotated, list) or len(rotated) != config.n_layers or not {*rotated} <= {0, 1}:
        raise fields.error("no_rope_layers", f"a list of {config.n_layers} zeros and ones")
    windows: tuple[int, ...] = ()
    if fields.flag("use_sliding_window", False) and fields.get("sliding_window", None) is not None:
        windows = fields.windows(fields.integer("sliding_window"), [not has_rope for has_rope in rotated])
    unrotated = tuple(layer for layer, has_rope in enumerate(rotated) if not has_rope)
    return replace(config, unrotated_layers=unrotated, layer_windows=windows)


FAMILY = Family(
    model_type="smollm3",
    summary="SmolLM3 3B",
    examples=("HuggingFaceTB/SmolLM3-3B",),
    read_config=_read_config,
    names=NAMES,
    skipped=SKIPPED,
)

"""EXAONE 4.0 (arXiv:2507.11407): norms after attention and MLP. If layers have windows, only those are rotated."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import SKIPPED, read_llama
from mygpt.families.olmo2 import NAMES
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    config = read_llama(fields)
    windows = _read_windows(fields, config.n_layers)
    return replace(
        config,
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        residual="post",
        qk_norm="head",
        layer_windows=windows,
        unrotated_layers=tuple(layer for layer, window in enumerate(windows) if not window),
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
    )


def _read_windows(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """No windows, as in the small model, or a window in all layers but some."""
    if fields.optional("sliding_window", 4096) is None:
        return ()
    # The files have `layer_types`. Some also have a pattern like "LLLG", which transformers does not read.
    pattern = 1 if fields.raw.get("layer_types") else fields.integer("sliding_window_pattern", 4)
    sliding = [(i + 1) % pattern != 0 for i in range(n_layers)]
    return fields.windows(fields.integer("sliding_window", 4096), sliding)


FAMILY = Family(
    model_type="exaone4",
    summary="EXAONE 4.0 1.2B, 32B",
    examples=("LGAI-EXAONE/EXAONE-4.0-1.2B", "LGAI-EXAONE/EXAONE-4.0-32B"),
    read_config=_read_config,
    names=NAMES,
    skipped=SKIPPED,
)

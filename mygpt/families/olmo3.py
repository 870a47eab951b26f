"""OLMo 3 (arXiv:2512.13961): OLMo 2 with a window in three of four layers; their rope is never scaled."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families._rope import read_rope, with_rope_of
from mygpt.families.llama import SKIPPED
from mygpt.families.olmo2 import NAMES, read_olmo2
from mygpt.model.config import Config

_THETA = 500_000.0


def _read_config(fields: Fields) -> Config:
    config = read_olmo2(with_rope_of(fields, "full_attention", theta=_THETA))
    sliding = [(i + 1) % 4 != 0 for i in range(config.n_layers)]
    return replace(
        config,
        window_rope=read_rope(with_rope_of(fields, "sliding_attention", theta=_THETA), config.head_dim),
        layer_windows=fields.windows(fields.integer("sliding_window", 4096), sliding),
    )


FAMILY = Family(
    model_type="olmo3",
    summary="OLMo 3 7B, 32B",
    examples=("allenai/Olmo-3-7B-Instruct", "allenai/Olmo-3-32B-Think"),
    read_config=_read_config,
    names=NAMES,
    skipped=SKIPPED,
)

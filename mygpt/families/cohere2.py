"""Command R7B and Command A (Cohere, arXiv:2504.00698): Command R with windows; layers without one are not rotated."""

from dataclasses import replace

from mygpt.families import _interleaved
from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.cohere import read_cohere
from mygpt.families.llama import SKIPPED
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    config = read_cohere(fields)
    pattern = fields.integer("sliding_window_pattern", 4)
    sliding = [(i + 1) % pattern != 0 for i in range(config.n_layers)]
    windows = fields.windows(fields.integer("sliding_window", 4096), sliding)
    unrotated = tuple(layer for layer, window in enumerate(windows) if not window)
    return replace(config, layer_windows=windows, unrotated_layers=unrotated)


FAMILY = Family(
    model_type="cohere2",
    summary="Command R7B, Command A",
    examples=("CohereLabs/c4ai-command-r7b-12-2024", "CohereLabs/c4ai-command-a-03-2025"),
    read_config=_read_config,
    names=_interleaved.NAMES,
    skipped=SKIPPED,
)

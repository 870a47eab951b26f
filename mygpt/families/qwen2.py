"""Qwen2 (arXiv:2407.10671): Llama with biases on queries, keys and values, and a window in the upper layers."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.llama import NAMES, SKIPPED, read_llama
from mygpt.model.config import Config


def read_windows(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """The layers' windows, if `use_sliding_window` is true. Qwen3 has the same keys."""
    if not fields.flag("use_sliding_window", False):
        return ()
    first = fields.count("max_window_layers", 28)
    return fields.windows(fields.integer("sliding_window", 4096), [i >= first for i in range(n_layers)])


def _read_config(fields: Fields) -> Config:
    config = read_llama(Fields({"max_position_embeddings": 32_768, **fields.raw}, fields.source))
    return replace(
        config,
        attention_bias=True,
        attention_output_bias=False,
        mlp_bias=False,
        layer_windows=read_windows(fields, config.n_layers),
    )


FAMILY = Family(
    model_type="qwen2",
    summary="Qwen2, Qwen2.5, QwQ, Qwen2.5-Coder and -Math, DeepSeek-R1-Distill-Qwen",
    examples=("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/QwQ-32B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    read_config=_read_config,
    names=NAMES,
    skipped=SKIPPED,
)

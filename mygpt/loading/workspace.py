"""An upper estimate of the memory that a forward pass needs beside weights and cache, from the modules' sizes.

Shapes: B sequences, T tokens of a pass, S tokens to attend to, C hidden size, H query heads, D dimensions per head,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mygpt.model.causal_lm import PREFILL_CHUNK
from mygpt.model.config import Config
from mygpt.model.linear import FusedLinear, Linear
from mygpt.model.moe import MoE
from mygpt.quantize.linear import QuantizedLinear

STREAMS = 8  # copies of the residual stream, some of them in float32, that norms and sums need at once
SCORE_BYTES = (
    12  # of a score that no fused kernel keeps to itself: as it is, masked, and as a weight in float32
)
SAMPLING_BYTES = 24  # of a logit while one is sampled: in float32, sorted, with its number, as a probability
LIBRARY_BYTES = {"cuda": 32 * 2**20}  # what cuBLAS takes of torch's memory


@dataclass(frozen=True)
class Workload:
    """What is asked of a model: `batch_size` prompts of `prompt_tokens`, `num_samples` answers to each."""

    prompt_tokens: int
    slots: int  # of the cache, for each sequence
    batch_size: int
    num_samples: int = 1

    @property
    def rows(self) -> int:
        """Sequences that are decoded together."""
        return self.batch_size * self.num_samples


def workspace_bytes(
    layers: list[nn.Module], config: Config, work: Workload, itemsize: int, device_type: str
) -> int:
    """The most that one of these layers (on the meta device, in whole or as a shard) takes while it runs.

    Each projection's output counts twice, as it is and changed; the residual stream `STREAMS` times; scores where
    they are written out; a quantized matrix once in floats, as many rows of x are multiplied with.
    """
    new = min(work.prompt_tokens, PREFILL_CHUNK)
    tokens = max(work.batch_size * new, work.rows)
    widest = max((2 * _outputs(layer) for layer in layers), default=0) + STREAMS * config.hidden_size
    largest = max((_dequantized(layer) for layer in layers), default=0)
    attention = max(
        (_attention_bytes(layer, config, work, device_type, itemsize) for layer in layers), default=0
    )
    return tokens * widest * itemsize + attention + largest * itemsize + LIBRARY_BYTES.get(device_type, 0)


def logits_bytes(config: Config, work: Workload, itemsize: int) -> int:
    """Of the logits, and of sampling from them."""
    return work.rows * config.vocab_size * (itemsize + SAMPLING_BYTES)


def _outputs(layer: nn.Module) -> int:
    """Numbers that the projections of a layer make of a token; of experts, all tokens may choose the same ones."""
    total = 0
    for path, module in layer.named_modules():
        if isinstance(module, Linear) and ".experts." not in f".{path}":
            total += module.out_features
        if isinstance(module, MoE):
            total += sum(
                part.out_features for part in module.experts[0].modules() if isinstance(part, Linear)
            )
    return total


def _dequantized(layer: nn.Module) -> int:
    quantized = [module for module in layer.modules() if isinstance(module, QuantizedLinear)]
    return max((module.out_features * module.in_features for module in quantized), default=0)


def _attention_bytes(
    layer: nn.Module, config: Config, work: Workload, device_type: str, itemsize: int
) -> int:
    """The mask, as truth values and as what is added to scores; scores, and repeated keys and values.

    A prompt of one chunk has no mask: its kernel masks by itself. Scores are written out where no kernel keeps them
    to itself: not capped ones, nor those of keys wider than values; and none on CUDA masks query heads in groups.
    """
    new = min(work.prompt_tokens, PREFILL_CHUNK)
    masked = new < work.prompt_tokens or config.attention_sinks or any(0 < w < new for w in config.windows)
    grouped = masked and device_type == "cuda" and config.n_kv_heads < config.n_heads
    written_out = config.attention_softcap is not None or config.mla is not None or grouped
    output = layer.get_submodule("attention.output")
    assert isinstance(output, Linear)
    heads = output.in_features // (config.mla.v_head_dim if config.mla else config.head_dim)
    pairs = work.batch_size * new * work.prompt_tokens
    total = pairs * (2 + itemsize) if masked or written_out else 0
    if written_out:
        repeated = 2 * work.batch_size * work.prompt_tokens * output.in_features
        total += pairs * heads * SCORE_BYTES + repeated * itemsize
    return total


def mapped_names(model: nn.Module, file_dtype: torch.dtype | None, *, stored: bool) -> set[str]:
    """The weights of a model on the meta device that a CPU may use as they lie in the file, where they have its dtype.

    Those of a fused layer are copied together. Packed matrices that are `stored` so count too, though some are copied.
    A shard's columns are copied, but count here as mapped.
    """
    names = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            same = parameter.dtype == file_dtype and not isinstance(module, FusedLinear)
            if stored if isinstance(module, QuantizedLinear) else same:
                names.add(f"{path}.{name}")
    return names


def read_bytes(sizes: dict[str, int], config: Config, rows: int) -> float:
    """Of weights of these names and sizes, how much decoding a token of each of `rows` sequences reads.

    All but the table that ids are looked up in, and of experts those alone that are chosen.
    """
    moe = config.moe
    chosen = min(1.0, rows * moe.num_experts_per_tok / moe.n_experts) if moe else 1.0
    total = 0.0
    for name, size in sizes.items():
        looked_up = name.startswith("position_embed.") or (
            name.startswith("embed.") and not config.tie_embeddings
        )
        if not looked_up:
            total += size * (chosen if ".experts." in name else 1.0)
    return total

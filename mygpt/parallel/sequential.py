"""A model whose layers are on several devices and run in turn (pipeline without overlap)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mygpt.errors import InputError
from mygpt.model.forward_context import ContextBuilder, ForwardOptions
from mygpt.model.gpt import GPT
from mygpt.model.kv_cache import KVCache
from mygpt.quantize.linear import QuantizedLinear, quantized_bytes

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Layers are divided by the bytes of their weights and of the keys and values of so many tokens.
CACHED_TOKENS = 4096
# The share of a GPU's free memory for weights and cache; a forward pass needs the rest.
USABLE = 0.92


@dataclass(frozen=True)
class Part:
    """Consecutive layers on one device, and what makes the contexts of their forward passes there."""

    device: torch.device
    layers: range
    context_builder: ContextBuilder


class SequentialGPT(GPT):
    """`GPT` in parts. Only the residual stream goes from device to device.

    ids ── embed ── part 1 ──> … ──> part N ── norm ── head ── logits
    """

    parts: list[Part]

    def split(self, devices: Sequence[torch.device], counts: Sequence[int]) -> None:
        """Give each device the next `counts` layers. It moves no weights, so call it before they are loaded."""
        starts = [sum(counts[:i]) for i in range(len(counts))]
        self.parts = [
            Part(device, range(start, start + count), deepcopy(self.context_builder).to(device))
            for device, start, count in zip(devices, starts, counts, strict=True)
            if count
        ]

    def device_of(self, name: str) -> torch.device:
        """Where the weight of that name belongs."""
        if name.startswith("layers."):
            layer = int(name.split(".")[1])
            return next(part.device for part in self.parts if layer in part.layers)
        at_the_end = name.startswith(("head.", "norm.")) and not self.config.tie_embeddings
        return self.parts[-1 if at_the_end else 0].device  # a tied head is where the embedding is

    def forward(self, ids: Tensor, cache: KVCache | None = None, **options: Unpack[ForwardOptions]) -> Tensor:
        """As `GPT.forward`; the logits are where the head is."""
        x: Tensor | None = None
        step = self.step(ids, cache, options)
        for part in self.parts:
            context = part.context_builder(step)
            x = self.embedded(ids, context) if x is None else x.to(part.device)
            x = self.run(part.layers, x, context, cache)
        assert x is not None
        return self.logits(x.to(self.device_of("head.")), options.get("logits_indices"))


def partition(model: GPT, devices: Sequence[torch.device], free: Sequence[float]) -> list[int]:
    """How many layers each device gets, so that the fullest device holds as little as possible.

    Embedding, head and the keys and values of `CACHED_TOKENS` tokens are counted. A CPU among GPUs gets what does
    not fit on them.

    Args:
        model: on the meta device, in the precision and quantization that it will have.
        devices: in the order of the layers.
        free: bytes that each has room for.

    Raises:
        InputError: the model does not fit.
    """
    kind = devices[0].type
    sizes = layer_bytes(model, kind)
    first, end = end_bytes(model, kind)
    loads = [*sizes]
    loads[0] += first
    loads[-1] += end
    mixed = {device.type for device in devices} != {devices[0].type}
    spills = [mixed and device.type == "cpu" for device in devices]
    rooms = list(zip(spills, free, strict=True))
    for limits in (
        lambda most: [0.0 if spill else min(room, most) for spill, room in rooms],
        lambda most: [min(room, most) if spill else room for spill, room in rooms],
    ):
        if (counts := _smallest(loads, limits)) is not None:
            return counts
    need, room = sum(loads) / 1e9, sum(free) / 1e9
    raise InputError(
        f"the model needs {need:.1f} GB and the {len(devices)} devices have {room:.1f} GB free; use more of them, "
        "--quantize bnb.nf4, or see what fits with 'mygpt plan'"
    )


def _smallest(loads: Sequence[int], limits: Callable[[int], Sequence[float]]) -> list[int] | None:
    """How many consecutive loads fit under each of `limits(most)`, for the smallest such sum; None where none does."""
    low, high = -1, sum(loads)
    counts = _fill(loads, limits(high))
    if counts is None:
        return None
    while high - low > 1:  # the smallest sum that is enough lies above `low`, and at or below `high`
        middle = (low + high) // 2
        tried = _fill(loads, limits(middle))
        low, high, counts = (middle, high, counts) if tried is None else (low, middle, tried)
    return counts


def _fill(loads: Sequence[int], limits: Sequence[float]) -> list[int] | None:
    """How many consecutive loads fit under each limit, taken in turn; None where some are left."""
    counts, taken = [], 0
    for limit in limits:
        start, total = taken, 0
        while taken < len(loads) and total + loads[taken] <= limit:
            total += loads[taken]
            taken += 1
        counts.append(taken - start)
    return counts if taken == len(loads) else None


def layer_bytes(model: GPT, device_type: str) -> list[int]:
    """Bytes of each layer: its weights, and the keys and values of `CACHED_TOKENS` tokens."""
    slots = min(CACHED_TOKENS, model.config.context_length)
    cache = model.allocate_cache(1, slots)
    return [
        weight_bytes(layer, device_type) + cached.nbytes
        for layer, cached in zip(model.layers, cache.layers, strict=True)
    ]


def end_bytes(model: GPT, device_type: str) -> tuple[int, int]:
    """Bytes of what comes before the layers and of what comes after them; a tied head is the embedding."""
    before = [model.embed] + ([model.position_embed] if model.position_embed else [])
    after = [model.norm] + ([model.head] if model.head else [])
    sizes = [sum(weight_bytes(module, device_type) for module in modules) for modules in (before, after)]
    return (sum(sizes), 0) if model.head is None else (sizes[0], sizes[1])


def weight_bytes(module: torch.nn.Module, device_type: str) -> int:
    """Bytes that the weights of a module on the meta device will take; quantized ones depend on the kind of device."""
    return sum(size for _, size in named_bytes(module, device_type))


def named_bytes(module: torch.nn.Module, device_type: str) -> Iterator[tuple[str, int]]:
    """The same for each weight by its name; those of a fused layer are one."""
    for path, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            size = parameter.nbytes
            if isinstance(part, QuantizedLinear) and name == "weight":
                size = quantized_bytes(part, part.scheme, part.dtype, device_type)
            yield f"{path}.{name}", size

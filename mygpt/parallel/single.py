"""The whole model on one device."""

from __future__ import annotations

import torch
from torch import nn

from mygpt.cache import KVCache, LayerShape
from mygpt.errors import InputError
from mygpt.model import GPT
from mygpt.weights import Place


def pick_device(accelerator: str) -> torch.device:
    """The device of `--accelerator`: `auto` takes the GPU where there is one.

    Raises:
        InputError: this machine has no such accelerator.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[accelerator]:
        raise InputError(
            f"--accelerator {accelerator}: this machine, or this build of torch, has none; try cpu"
        )
    return torch.device(accelerator)


DTYPES = {"32-true": torch.float32, "16-true": torch.float16, "bf16-true": torch.bfloat16}


# Models below this take less than 1 GB in float32. They are quick in it, and it is they whose answers
# change with bfloat16's rounding: SmolLM2-135M's capital of France, for one.
SMALL_MODEL = 250_000_000


def pick_precision(
    precision: str | None, device: torch.device, model: nn.Module, quantized: bool = False
) -> str:
    """`--precision`, or the best that the device runs well; quantized layers on a CPU are fast in bfloat16 alone."""
    if precision is not None:
        return precision
    if device.type == "cuda":
        return "bf16-true" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-true"
    if device.type == "mps":
        return "16-true"
    if quantized:
        return "bf16-true"
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL
    # Without AVX512-BF16 or AMX a CPU widens each weight as it goes: slower than float32.
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-true" if native and not small else "32-true"


def mover(device: torch.device, dtype: torch.dtype) -> Place:
    """Cast and move. On the CPU a tensor of the right dtype stays where it is: mapped from the file."""
    return lambda name, tensor: tensor.to(device=device, dtype=dtype)


def allocate_cache(model: GPT, batch_size: int, slots: int) -> KVCache:
    """An empty cache beside the model's weights."""
    weight, config = model.embed.weight, model.config
    shapes = [LayerShape(config.n_kv_heads, config.head_dim, window) for window in config.windows]
    return KVCache(shapes, batch_size, slots, [weight.device] * len(shapes), weight.dtype)

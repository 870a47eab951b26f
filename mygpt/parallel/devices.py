"""Devices, and what runs well on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mygpt import kernels
from mygpt.checkpoint.fill import Place, Weight
from mygpt.errors import InputError


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


def pick_devices(accelerator: str, devices: int | str) -> list[torch.device]:
    """The devices of `--devices`: so many of the accelerator's, `auto` for all, or those of a list.

    On the CPU, which is one device, so many parts of the model stand beside each other.

    Raises:
        InputError: this machine has no such devices.
    """
    if isinstance(devices, str) and devices != "auto" and not devices.isdecimal():
        return [_device(name.strip()) for name in devices.split(",")]
    kind = pick_device(accelerator).type
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)
    count = (available or 1) if devices == "auto" else int(devices)
    if available is not None and count > available:
        raise InputError(f"--devices {count}: this machine has {available} of {kind}; ask for fewer")
    if kind == "cuda":
        return [torch.device(kind, index) for index in range(count)]
    return [torch.device(kind)] * count


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--devices: {name!r} is no device; write such as cuda:0,cuda:1,cpu") from error
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    there = counts.get(device.type, 0)
    if (device.index or 0) >= there:
        raise InputError(f"--devices: there is no {name} here, this machine has {there} of {device.type}")
    return device


def free_bytes(device: torch.device) -> float:
    """What a GPU has room for; a CPU's memory is not counted."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else float("inf")


def free_host_bytes() -> int | None:
    """What a Linux machine can give to programs; None on others."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else int(kib) * 1024


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
    native = kernels.allows("avx512") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-true" if native and not small else "32-true"


# Small, and of an effect that rounding would change: which experts are chosen.
KEPT_IN_FLOAT32 = (".router.correction",)


def dtype_of(name: str, precision: str) -> torch.dtype:
    """What the weight of that name (ours) is held in."""
    return torch.float32 if name.endswith(KEPT_IN_FLOAT32) else DTYPES[precision]


def cast(model: nn.Module, precision: str) -> None:
    """Make the weights of a model on the meta device those of a precision."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype_of(name, precision))


def mover(device_of: Callable[[str], torch.device], precision: str) -> Place:
    """Cast and move. On the CPU a tensor of the right dtype stays where it is: mapped from the file.

    A slice of columns does not: products read it faster in one piece, and its pages of the file hold the others' too.
    """

    def move(name: str, weight: Weight) -> Weight:
        moved = weight.to(device=device_of(name), dtype=dtype_of(name, precision))
        return moved.contiguous() if isinstance(moved, torch.Tensor) else moved

    return move

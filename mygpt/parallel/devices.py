"""Devices: which there are, their memory, and the precision that they run well."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mygpt import kernels
from mygpt.checkpoint.fill import Transform, Weight
from mygpt.errors import InputError


def pick_device(accelerator: str) -> torch.device:
    """The device of `--accelerator`: `auto` takes the GPU where there is one; `gpu` is Lightning's word for any.

    Raises:
        InputError: this machine has no such accelerator.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, present in available.items() if present))
    gpu = next((name for name in ("cuda", "mps") if available[name]), "cuda")
    kind = gpu if accelerator == "gpu" else accelerator
    if not available[kind]:
        raise InputError(
            f"--accelerator {accelerator}: this machine, or this build of torch, has none; try cpu"
        )
    return torch.device(kind)


def pick_devices(accelerator: str, devices: int | str) -> list[torch.device]:
    """The devices of `--devices`: a number of the accelerator's, `auto` for all, or a list of names.

    The CPU is one device, which may hold any number of parts of the model.

    Raises:
        InputError: this machine has no such devices.
    """
    if isinstance(devices, str) and devices != "auto" and not devices.isdecimal():
        return [_device(name.strip()) for name in devices.split(",")]
    kind = pick_device(accelerator).type
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)
    count = (available or 1) if devices == "auto" else int(devices)
    if available is not None and count > available:
        raise InputError(f"--devices {count}: this machine has only {available} of {kind}; ask for fewer")
    if kind == "cuda":
        return [torch.device(kind, index) for index in range(count)]
    return [torch.device(kind)] * count


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--devices: {name!r} is no device; write such as cuda:0,cuda:1,cpu") from error
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    count = counts.get(device.type, 0)
    if (device.index or 0) >= count:
        has = f"only {count} of {device.type}" if count else f"no {device.type} device"
        raise InputError(f"--devices: there is no {name} here, this machine has {has}")
    return device


def free_bytes(device: torch.device) -> float:
    """The free memory of a GPU; infinite for a CPU."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else float("inf")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that a GPU's tensors took, or that was resident of this process for a CPU.

    0 on Windows, which has no `resource`.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` counts what the parent held when it started this process
        return next(int(line.split()[1]) * 1024 for line in status.open() if line.startswith("VmHWM"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


DTYPES = {"32-true": torch.float32, "16-true": torch.float16, "bf16-true": torch.bfloat16}


# Parameters. Smaller models take less than 1 GB in float32 and are fast in it, and bfloat16's rounding changes their
# answers: for example what SmolLM2-135M says is the capital of France.
SMALL_MODEL = 250_000_000


def pick_precision(
    precision: str | None, device: torch.device, model: nn.Module, quantized: bool = False
) -> str:
    """`--precision`, or the best that the device runs well; quantized layers on a CPU are fast only in bfloat16."""
    if precision is not None:
        return precision
    if device.type == "cuda":
        return "bf16-true" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-true"
    if device.type == "mps":
        return "16-true"
    if quantized:
        return "bf16-true"
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL
    # Without AVX512-BF16 or AMX a CPU converts each weight to float32 first, which is slower than float32.
    native = kernels.allows("avx512") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-true" if native and not small else "32-true"


# They are small, and rounding them would change which experts are chosen.
KEPT_IN_FLOAT32 = (".router.e_score_correction_bias",)


def dtype_of(name: str, precision: str) -> torch.dtype:
    """The dtype of the weight of that name (ours)."""
    return torch.float32 if name.endswith(KEPT_IN_FLOAT32) else DTYPES[precision]


def cast(model: nn.Module, precision: str) -> None:
    """Give the weights of a model on the meta device the dtypes of a precision."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype_of(name, precision))


def mover(device_of: Callable[[str], torch.device], precision: str) -> Transform:
    """Casts and moves weights. On the CPU a tensor of the right dtype stays mapped from the file.

    A slice of columns is copied: products read it faster, and its pages in the file hold other ranks' columns too.
    """

    def move(name: str, weight: Weight) -> Weight:
        moved = weight.to(device=device_of(name), dtype=dtype_of(name, precision))
        return moved.contiguous() if isinstance(moved, torch.Tensor) else moved

    return move

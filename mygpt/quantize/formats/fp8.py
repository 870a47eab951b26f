"""Weights in FP8, as DeepSeek-V3's repositories store them (arXiv:2412.19437, section 3.3.2).

Numbers are E4M3 (arXiv:2209.05433); each block of 128 by 128 of a matrix shares a factor, `weight_scale_inv`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mygpt.errors import InputError
from mygpt.quantize.schemes import Scheme, TensorFile, register

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 128  # rows, and columns
_SUFFIX = "_scale_inv"


@register
class FP8(Scheme):
    """FP8 in blocks, dequantized while it is loaded."""

    name = "fp8"
    methods = ("fp8",)

    @classmethod
    def read(cls, quantization: Mapping[str, Any], source: str) -> FP8:
        """Source: `FineGrainedFP8Config` of transformers."""
        number, block = quantization.get("fmt", "e4m3"), quantization.get("weight_block_size", [BLOCK, BLOCK])
        if number != "e4m3" or block != [BLOCK, BLOCK]:
            raise InputError(
                f"{source}: FP8 weights in {number} with 'weight_block_size' {block} are not supported, only e4m3 in "
                f"blocks of {BLOCK} by {BLOCK}; use an unquantized one"
            )
        return cls()

    def tensors(self, file: TensorFile, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """In float32."""
        return dequantized(file.tensors(), device)


def dequantized(tensors: Iterable[tuple[str, Tensor]], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """The stream with each pair `NAME` and `NAME_scale_inv` as one float32 matrix `NAME`, made on `device`.

    The two of a pair may stand far apart: the first waits, mapped from its file, for the other.

    Raises:
        InputError: one of a pair is missing, or they do not fit each other.
    """
    import torch

    waiting: dict[str, Tensor] = {}
    for name, tensor in tensors:
        base = name.removesuffix(_SUFFIX)
        if name == base and tensor.dtype is not torch.float8_e4m3fn:
            yield name, tensor
            continue
        waiting[name] = tensor
        if base in waiting and base + _SUFFIX in waiting:
            weight, scales = waiting.pop(base), waiting.pop(base + _SUFFIX)
            _check(base, weight, scales)
            yield base, dequantize(weight.to(device), scales.to(device))
    if waiting:
        name = next(iter(waiting))
        other = name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) else name + _SUFFIX
        raise InputError(f"{name} has no {other} beside it; download the checkpoint again")


def dequantize(weight: Tensor, scales: Tensor) -> Tensor:
    """E4M3 (R, C) times its blocks' factors, (R / 128, C / 128) rounded up, in float32."""
    rows, columns = weight.shape
    spread = scales.float().repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return weight.float().mul_(spread)


def _check(name: str, weight: Tensor, scales: Tensor) -> None:
    import torch

    blocks = tuple(math.ceil(size / BLOCK) for size in weight.shape)
    fits = weight.dtype is torch.float8_e4m3fn and weight.ndim == 2 and scales.shape == blocks
    if not fits or not scales.is_floating_point():
        raise InputError(
            f"{name} {tuple(weight.shape)} {weight.dtype} with factors {tuple(scales.shape)} {scales.dtype} is no FP8 "
            f"matrix of blocks of {BLOCK} by {BLOCK}; only these are supported"
        )

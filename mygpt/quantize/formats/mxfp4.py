"""Experts in MXFP4, as gpt-oss's repositories store them: 4-bit numbers, of which each 32 share a scale.

OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6.3. Shapes: E experts,
R rows (outputs), G groups of 32 columns (inputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mygpt.errors import InputError
from mygpt.quantize.schemes import Scheme, TensorFile, register

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# E2M1: a sign bit, two of exponent, one of mantissa.
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4_VALUES = (*_MAGNITUDES, *(-value for value in _MAGNITUDES))
_PAIRS = [(FP4_VALUES[byte & 15], FP4_VALUES[byte >> 4]) for byte in range(256)]  # the low half comes first
_SCALES = [*(2.0**exponent for exponent in range(-127, 128)), math.nan]  # E8M0
_BYTES = 16  # of a group
_PARTS = ("blocks", "scales")


@register
class MXFP4(Scheme):
    """Experts in MXFP4, dequantized while they are loaded.

    A pair holds the matrices of all experts of a layer, under a name that gpt-oss alone has.
    """

    name = "mxfp4"
    methods = ("mxfp4",)
    model_types = ("gpt_oss",)

    def tensors(self, file: TensorFile, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """In bfloat16, expert by expert."""
        return dequantized(file.tensors(), device)


def dequantized(tensors: Iterable[tuple[str, Tensor]], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """The stream with each pair `….experts.NAME_blocks` and `….experts.NAME_scales` as bfloat16 matrices.

    They are one per expert, `….experts.{e}.NAME` (R, 32 G), made on `device` one by one. The two of a pair may
    stand far apart: the first waits, mapped from its file, for the other.

    Raises:
        InputError: one of a pair is missing, or they do not fit each other.
    """
    waiting: dict[str, Tensor] = {}
    for name, tensor in tensors:
        base, _, part = name.rpartition("_")
        if part not in _PARTS:
            yield name, tensor
            continue
        waiting[name] = tensor
        pair = [f"{base}_{each}" for each in _PARTS]
        if waiting.keys() >= {*pair}:
            blocks, scales = (waiting.pop(each) for each in pair)
            _check(base, blocks, scales)
            layer, _, matrix = base.rpartition(".")
            for expert in range(len(blocks)):
                yield (
                    f"{layer}.{expert}.{matrix}",
                    dequantize(blocks[expert].to(device), scales[expert].to(device)),
                )
    if waiting:
        base, _, part = next(iter(waiting)).rpartition("_")
        other = _PARTS[part == _PARTS[0]]
        raise InputError(f"{base}_{part} has no {base}_{other} beside it; download the checkpoint again")


def dequantize(blocks: Tensor, scales: Tensor) -> Tensor:
    """Bytes (R, G, 16) of two numbers each and the groups' scales (R, G), uint8 both, to bfloat16 (R, 32 G).

    Bfloat16 holds every product of the two exactly.
    """
    import torch
    import torch.nn.functional as F

    pairs = torch.tensor(_PAIRS, dtype=torch.bfloat16, device=blocks.device)
    powers = torch.tensor(_SCALES, dtype=torch.bfloat16, device=blocks.device)
    groups = F.embedding(blocks.int(), pairs).flatten(-2)  # (R, G, 32); twice as fast as by index
    return groups.mul_(powers[scales.int()][..., None]).flatten(-2)


def _check(base: str, blocks: Tensor, scales: Tensor) -> None:
    import torch

    bytes_ = {blocks.dtype, scales.dtype} == {torch.uint8}
    if not bytes_ or blocks.ndim != 4 or blocks.shape != (*scales.shape, _BYTES):
        told = [
            f"{part} {tuple(t.shape)} {t.dtype}" for part, t in zip(_PARTS, (blocks, scales), strict=True)
        ]
        raise InputError(f"{base}: {' and '.join(told)} are no MXFP4 pair; download the checkpoint again")

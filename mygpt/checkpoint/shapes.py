"""Shapes that stand in a file's header."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

_MOST_DIMENSIONS = 8
_MOST_NUMBERS = 2**60  # that torch can count the bytes of


def checked_shape(sizes: Sequence[int]) -> torch.Size:
    """The sizes as torch's shape.

    Raises:
        ValueError: they are none, or too large.
    """
    whole = all(type(size) is int and size >= 0 for size in sizes)
    if not whole or len(sizes) > _MOST_DIMENSIONS or math.prod(max(1, n) for n in sizes) > _MOST_NUMBERS:
        raise ValueError("no shape")
    return torch.Size(sizes)

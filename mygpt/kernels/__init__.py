"""Kernels in C for decoding on the CPU, where a step of a few tokens is bound by reading the weights.

Each has a plain PyTorch counterpart in the model's code, which is taken wherever the kernel does not fit.
"""

from mygpt.kernels.ops import (
    attend,
    attends,
    fits,
    fits_gated,
    fits_linear,
    fourbit_linear,
    gated_linear,
    int8_linear,
    linear,
    rms_norm,
)

__all__ = [
    "attend",
    "attends",
    "fits",
    "fits_gated",
    "fits_linear",
    "fourbit_linear",
    "gated_linear",
    "int8_linear",
    "linear",
    "rms_norm",
]

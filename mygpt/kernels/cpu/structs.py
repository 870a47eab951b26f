"""What Python and C share: structs, numbers and the functions' types. A library is asked whether they agree."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_float, c_int, c_long, c_uint64, c_void_p

import torch
from torch import Tensor

# Rows of x that linear.c holds sums for, and attention.c's limits.
MAX_ROWS, MAX_DIM, MAX_GROUP = 16, 256, 64
TYPES: Mapping[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}
INT8, FOURBIT = 2, 3
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
NO_GATE = 2
NO_TILES, BY_UNIT, BY_VECTORS = 0, 1, 2


class Matrix(ctypes.Structure):
    """A matrix (out, in) that x is multiplied with, and a bias: addresses in the memory of `tensors`."""

    tensors: tuple[Tensor | None, ...]  # not C's: kept, so that the addresses stay right
    inputs: int
    outputs: int
    type: int
    xtype: int

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "scales", "table", "bias")),
        *((name, c_long) for name in ("inputs", "outputs", "type", "xtype")),
    )


class Norm(ctypes.Structure):
    """An RMS norm: the address of its weight, and its numbers."""

    _fields_ = (
        ("weight", c_void_p),
        *((name, c_long) for name in ("width", "type")),
        *((name, c_float) for name in ("eps", "offset")),
    )


class AttentionArgs(ctypes.Structure):
    """New tokens, and the cache of one layer."""

    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "v", "cos", "sin", "keys", "values", "positions", "y")),
        *((name, c_long) for name in ("q_stride", "k_stride", "v_stride", "sequence_stride", "head_stride")),
        *(
            (name, c_long)
            for name in ("batch", "tokens", "heads", "kv_heads", "dim", "rotated", "slots", "seen", "type")
        ),
        ("scale", c_float),
    )


class BlockWeights(ctypes.Structure):
    """The weights of a block, and its numbers."""

    _fields_ = (
        *((name, Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((name, Norm) for name in ("attention_norm", "mlp_norm")),
        ("activation", c_long),
        ("residual_scale", c_float),
    )


class GroupState(ctypes.Structure):
    """The ranks of one machine, as one of them sees them."""

    _fields_ = (
        ("memory", c_void_p),
        *((name, c_long) for name in ("rank", "size", "capacity", "lost", "crowded")),
        ("count", c_uint64),
    )


CONSTANTS: Mapping[str, int] = {
    **{
        kind.__name__: ctypes.sizeof(kind) for kind in (Matrix, Norm, AttentionArgs, BlockWeights, GroupState)
    },
    **{"F32": TYPES[torch.float32], "BF16": TYPES[torch.bfloat16], "INT8": INT8, "FOURBIT": FOURBIT},
    **{"SILU": ACTIVATIONS["silu"], "GELU_TANH": ACTIVATIONS["gelu_tanh"], "NO_GATE": NO_GATE},
    **{"NO_TILES": NO_TILES, "BY_UNIT": BY_UNIT, "BY_VECTORS": BY_VECTORS},
    **{"MAX_ROWS": MAX_ROWS, "MAX_DIM": MAX_DIM, "MAX_GROUP": MAX_GROUP},
}

# What each function of exports.c and shm.c returns, and its arguments.
FUNCTIONS: Mapping[str, tuple[object, list[object]]] = {
    "mygpt_constant": (c_long, [c_char_p]),
    "mygpt_tiles_by": (c_int, []),
    "mygpt_has_fourbit": (c_int, []),
    "mygpt_norm": (None, [c_int, POINTER(Norm), c_void_p, c_long, c_void_p]),
    "mygpt_gate": (None, [c_int, c_int, c_void_p, c_long, c_long, c_int, c_void_p]),
    "mygpt_linear": (None, [c_int, POINTER(Matrix), c_void_p, c_long, c_int, c_void_p]),
    "mygpt_attention": (None, [c_int, POINTER(AttentionArgs)]),
    "mygpt_block": (None, [c_int, POINTER(BlockWeights), POINTER(AttentionArgs), c_void_p, c_void_p]),
    "mygpt_shm_all_reduce": (
        None,
        [c_int, POINTER(GroupState), c_int, c_void_p, c_long, c_void_p],
    ),
    "mygpt_shm_gather": (None, [POINTER(GroupState), c_void_p, c_long, c_void_p]),
}


def address(tensor: Tensor | None) -> int:
    """Where a tensor's numbers begin; 0 is NULL."""
    return 0 if tensor is None else tensor.data_ptr()

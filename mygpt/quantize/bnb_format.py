"""bitsandbytes' serialization: the tensors that a quantized matrix is in a file.

4 bits: NAME.weight with the codes, and beside it NAME.weight.absmax, .quant_map, where scales are nested
.nested_absmax and .nested_quant_map, and .quant_state.bitsandbytes__nf4 (or __fp4), JSON in bytes. 8 bits:
NAME.weight, NAME.SCB (each row's largest magnitude) and NAME.weight_format. Source: `QuantState.as_dict` and
`Linear8bitLt._save_to_state_dict` of bitsandbytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mygpt.errors import InputError
from mygpt.quantize.bnb_library import levels
from mygpt.quantize.bnb_matrices import (
    BLOCK_SIZE,
    BLOCK_SIZES,
    NESTED_BLOCK_SIZE,
    BnbMatrix,
    EightBit,
    FourBit,
    Nested,
    four_bit,
)

_STATE = ".quant_state.bitsandbytes__"
_SCALES, _FORMAT = ".SCB", ".weight_format"


def stored_matrices(names: Collection[str]) -> dict[str, set[str]]:
    """The quantized matrices of a file that has tensors of these names, each with all the tensors that it is of."""
    groups: dict[str, set[str]] = {}
    for name in names:
        if _STATE in name:
            groups[name.partition(_STATE)[0]] = set()
        elif name.endswith(_SCALES):
            groups[f"{name.removesuffix(_SCALES)}.weight"] = set()
    for name in names:
        if (owner := _owner(name)) in groups:
            groups[owner].add(name)
    return groups


def _owner(name: str) -> str:
    """The matrix that a tensor belongs to, if it belongs to one."""
    for suffix in (_SCALES, _FORMAT):
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}.weight"
    head, weight, _ = name.partition(".weight.")
    return head + ".weight" if weight else name


def assemble(
    tensors: Iterable[tuple[str, Tensor]], groups: Mapping[str, set[str]], source: str
) -> Iterator[tuple[str, Tensor | BnbMatrix]]:
    """A file's stream with its quantized matrices (`stored_matrices`) put together, the rest as it is.

    Raises:
        InputError: a matrix lacks tensors, or they do not fit each other.
    """
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        owner = _owner(name)
        if owner not in groups:
            yield name, tensor
            continue
        parts = waiting.setdefault(owner, {})
        parts[name.removeprefix(owner)] = tensor
        if len(parts) == len(groups[owner]):
            try:
                yield owner, _read(owner, waiting.pop(owner))
            except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
                raise InputError(
                    f"{source}: {owner} is not as bitsandbytes writes it ({reason}); download it again"
                ) from error


def _read(name: str, parts: dict[str, Tensor]) -> BnbMatrix:
    state = next((part for part in parts if part.startswith(_STATE)), None)
    if state is not None:
        return _read_4bit(parts, json.loads(parts[state].numpy().tobytes()))
    prefix = name.removesuffix(".weight")
    if int(parts.get("_format", torch.tensor(0))) != 0:  # NAME.weight_format, without NAME.weight
        raise ValueError("its layout is an old one of a single GPU's")
    return EightBit(parts[""].contiguous(), _floats(parts[prefix + _SCALES]))


def _read_4bit(parts: dict[str, Tensor], state: dict[str, Any]) -> FourBit:
    shape, size, nested = state["shape"], state["blocksize"], None
    numbers = [type(number) is int and 0 < number < 2**31 for number in shape]
    if numbers != [True, True] or type(size) is not int or size not in BLOCK_SIZES:
        raise ValueError(f"no matrix is {shape!r} in blocks of {size!r}")
    if (table := parts.get(".quant_map")) is not None and _floats(table).shape != (16,):
        raise ValueError(f"{tuple(table.shape)} levels")
    absmax = parts[".absmax"]
    if ".nested_absmax" in parts:
        if state["nested_blocksize"] != NESTED_BLOCK_SIZE:
            raise ValueError(f"nested blocks of {state['nested_blocksize']}")
        offset = torch.tensor(float(state["nested_offset"]))
        nested = Nested(_floats(parts[".nested_absmax"]), _floats(parts[".nested_quant_map"]), offset)
    else:
        absmax = _floats(absmax)
    rows = parts[""].contiguous().view(torch.uint8)
    if rows.numel() != -(-math.prod(shape) // 2):
        raise ValueError(f"{rows.numel()} bytes for {tuple(shape)}")
    if absmax.numel() != -(-math.prod(shape) // size):
        raise ValueError(f"{absmax.numel()} scales for {tuple(shape)}")
    return four_bit(torch.Size(shape), state["quant_type"], rows, absmax, nested, size)


def _floats(numbers: Tensor) -> Tensor:
    """Scales or levels in float32; other numbers are none."""
    if not numbers.is_floating_point():
        raise ValueError(f"scales or levels in {numbers.dtype}")
    return numbers.float().contiguous()


def write(name: str, matrix: BnbMatrix, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a file has for the matrix `name` (NAME.weight), which was of `dtype`."""
    if isinstance(matrix, EightBit):
        prefix = name.removesuffix(".weight")
        yield name, matrix.rows
        yield prefix + _SCALES, matrix.absmax
        yield prefix + _FORMAT, torch.tensor(0, dtype=torch.uint8)
        return
    state: dict[str, Any] = {
        "quant_type": matrix.quant_type,
        "blocksize": BLOCK_SIZE,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": list(matrix.shape),
    }
    yield name, matrix.rows.reshape(-1, 1)
    yield f"{name}.absmax", matrix.absmax.flatten()
    yield f"{name}.quant_map", levels(matrix.quant_type)
    if nested := matrix.nested:
        yield f"{name}.nested_absmax", nested.absmax
        yield f"{name}.nested_quant_map", nested.levels
        state |= {
            "nested_blocksize": NESTED_BLOCK_SIZE,
            "nested_dtype": "float32",
            "nested_offset": nested.offset.item(),
        }
    encoded = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
    yield f"{name}{_STATE}{matrix.quant_type}", encoded

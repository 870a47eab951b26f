"""Fill a model that was built on the meta device from a stream of (name, tensor)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mygpt.attention import OwnHeadNorm
from mygpt.config import Config
from mygpt.errors import InputError
from mygpt.families.base import Family
from mygpt.linear import FusedLinear

# What a placement does to each tensor as it passes: slice, cast, quantize, move.
Place = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Slot:
    """Where a named tensor goes: a parameter of a module, or some rows of a fused one."""

    module: nn.Module
    parameter: str
    rows: slice | None

    @property
    def shape(self) -> torch.Size:
        """The shape that the tensor must have."""
        parameter: Tensor = getattr(self.module, self.parameter)
        return parameter.shape if self.rows is None else parameter[self.rows].shape

    def fill(self, tensor: Tensor) -> None:
        """Put the tensor there. Unfused, it becomes the parameter itself: no copy is made."""
        if self.rows is None:
            setattr(self.module, self.parameter, nn.Parameter(tensor, requires_grad=False))
            return
        parameter: Tensor = getattr(self.module, self.parameter)
        if parameter.is_meta:
            storage = torch.empty_like(parameter, device=tensor.device, dtype=tensor.dtype)
            setattr(self.module, self.parameter, nn.Parameter(storage, requires_grad=False))
            parameter = storage
        parameter.data[self.rows] = tensor


def slots(model: nn.Module) -> dict[str, Slot]:
    """Every tensor that the model needs, by our name. Slots of a fused layer are siblings of the layer."""
    found: dict[str, Slot] = {}
    for path, module in model.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            if isinstance(module, FusedLinear | OwnHeadNorm):
                start = 0
                for slot, rows in module.slots.items():
                    name = ".".join([*path.split(".")[:-1], slot, parameter])
                    found[name] = Slot(module, parameter, slice(start, start + rows))
                    start += rows
            else:
                found[f"{path}.{parameter}"] = Slot(module, parameter, None)
    return found


def put_whole(slot: Slot, name: str, tensor: Tensor, place: Place) -> None:
    """Put a tensor through `place` into its slot."""
    slot.fill(place(name, tensor))


def fill(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    place: Place,
    source: str,
    put: Callable[[Slot, str, Tensor, Place], None] = put_whole,
) -> None:
    """Put each tensor (by our names) through `place` into its slot, or as much of it as `put` says.

    Raises:
        InputError: tensors are missing, unexpected or of another shape; `source` and their names are told.
    """
    wanted = slots(model)
    missing, misshaped, quantized, unexpected = dict.fromkeys(wanted), [], [], []
    for name, tensor in tensors:
        slot = wanted.get(name)
        if slot is None:
            unexpected.append(name)
        elif slot.shape != tensor.shape:
            missing.pop(name, None)
            misshaped.append(f"{name} {tuple(tensor.shape)} in place of {tuple(slot.shape)}")
        elif not tensor.is_floating_point():
            missing.pop(name, None)
            quantized.append(f"{name} {tensor.dtype}")
        else:
            missing.pop(name, None)
            put(slot, name, tensor, place)
    problems = {
        "missing": list(missing),
        "wrongly shaped": misshaped,
        "not of floating point": quantized,
        "unexpected": unexpected,
    }
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in problems.items() if names)
        raise InputError(
            f"{source}: the weights do not fit config.json ({text}); download the checkpoint again"
        )


def _few(names: list[str], most: int = 8) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def translated(
    tensors: Iterable[tuple[str, Tensor]], family: Family, config: Config
) -> Iterator[tuple[str, Tensor]]:
    """The file's stream in our names. A name that the family does not know passes as it is, to be reported."""
    for name, tensor in tensors:
        ours = family.translate(name, tensor, config)
        if ours is None:
            yield name, tensor
            continue
        for our_name, part in ours:
            # Files of tied models may repeat the embedding as the head.
            if not (config.tie_embeddings and our_name == "head.weight"):
                yield our_name, part

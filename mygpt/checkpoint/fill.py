"""Fill a model that was built on the meta device from a stream of (name, tensor)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from mygpt.errors import InputError
from mygpt.families._base import Family
from mygpt.model.attention import OwnHeadNorm
from mygpt.model.config import Config
from mygpt.model.linear import FusedLinear, Linear
from mygpt.quantize.linear import QuantizedLinear
from mygpt.quantize.packed import PackedMatrix

Weight: TypeAlias = Tensor | PackedMatrix
# What a placement does to each weight, by its name, as it passes: cast, move (`to`).
Transform = Callable[[str, Weight], Weight]


@dataclass(frozen=True)
class WeightTarget:
    """Where a named tensor goes: a parameter of a module, or some rows of a fused one."""

    module: nn.Module
    parameter: str
    rows: slice | None

    @property
    def shape(self) -> torch.Size:
        """The shape that the tensor must have."""
        parameter: Tensor = getattr(self.module, self.parameter)
        return parameter.shape if self.rows is None else parameter[self.rows].shape

    @property
    def takes_quantized(self) -> bool:
        """Whether what is put there may be quantized, or will be."""
        return isinstance(self.module, Linear) and self.parameter == "weight"

    def fill(self, tensor: Weight) -> None:
        """Put the tensor there. Unfused, it becomes the parameter itself: no copy is made."""
        if isinstance(self.module, QuantizedLinear) and self.parameter == "weight":
            self.module.put(self.rows, tensor)
            return
        parameter: Tensor = getattr(self.module, self.parameter)
        if not isinstance(tensor, Tensor):  # of a layer whose matrix is used other than to multiply with
            tensor = tensor.dequantize(parameter.dtype)
        if self.rows is None:
            setattr(self.module, self.parameter, nn.Parameter(tensor, requires_grad=False))
            return
        if parameter.is_meta:
            # Not empty_like, for which torch asks sympy how a meta tensor lies: a second of imports.
            storage = torch.empty(parameter.shape, device=tensor.device, dtype=tensor.dtype)
            setattr(self.module, self.parameter, nn.Parameter(storage, requires_grad=False))
            parameter = storage
        parameter.data[self.rows] = tensor


def weight_targets(model: nn.Module) -> dict[str, WeightTarget]:
    """Every tensor that the model needs, by our name. Parts of a fused layer are siblings of the layer."""
    found: dict[str, WeightTarget] = {}
    for path, module in model.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            if isinstance(module, FusedLinear | OwnHeadNorm) and module.parts:
                start = 0
                for part, rows in module.parts.items():
                    name = ".".join([*path.split(".")[:-1], part, parameter])
                    found[name] = WeightTarget(module, parameter, slice(start, start + rows))
                    start += rows
            else:
                found[f"{path}.{parameter}"] = WeightTarget(module, parameter, None)
    return found


def put_whole(target: WeightTarget, name: str, weight: Weight, transform: Transform) -> None:
    """Put a weight through `transform` into its target."""
    target.fill(transform(name, weight))


def fill(
    model: nn.Module,
    tensors: Iterable[tuple[str, Weight]],
    transform: Transform,
    source: str,
    put: Callable[[WeightTarget, str, Weight, Transform], None] = put_whole,
) -> None:
    """Put each tensor (by our names) through `transform` into its target, or as much of it as `put` says.

    Raises:
        InputError: tensors are missing, unexpected or of another shape; `source` and their names are told.
    """
    wanted = weight_targets(model)
    missing, misshaped, quantized, unexpected = dict.fromkeys(wanted), [], [], []
    for name, tensor in tensors:
        target = wanted.get(name)
        if target is None:
            unexpected.append(name)
        elif target.shape != tensor.shape:
            missing.pop(name, None)
            misshaped.append(f"{name} {tuple(tensor.shape)} in place of {tuple(target.shape)}")
        elif not (tensor.is_floating_point() if isinstance(tensor, Tensor) else target.takes_quantized):
            missing.pop(name, None)
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            quantized.append(f"{name} {kind}")
        else:
            missing.pop(name, None)
            put(target, name, tensor, transform)
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
    tensors: Iterable[tuple[str, Weight]], family: Family, config: Config
) -> Iterator[tuple[str, Weight]]:
    """The file's stream in our names. A name that the family does not know passes as it is, to be reported."""
    for name, tensor in tensors:
        ours = _translate(name, tensor, family, config)
        if ours is None:
            yield name, tensor
            continue
        for our_name, part in ours:
            # Files of tied models may repeat the embedding as the head.
            if not (config.tie_embeddings and our_name == "head.weight"):
                yield our_name, part


def _translate(
    name: str, weight: Weight, family: Family, config: Config
) -> Iterable[tuple[str, Weight]] | None:
    if isinstance(weight, Tensor):
        return family.translate(name, weight, config)
    whole = torch.empty(weight.shape[0], 1)
    ours = family.translate(name, whole, config)
    if not ours or [part is whole for _, part in ours] == [True]:
        return ours and [(ours[0][0], weight)]
    # What parts a matrix by its rows, or orders them anew, does so with what else there is of each row.
    try:
        parts = weight.split_rows(
            lambda rows: [part for _, part in family.translate(name, rows, config) or ()]
        )
        return list(zip([our_name for our_name, _ in ours], parts, strict=True))
    except ValueError as error:
        raise InputError(f"{name} is stored quantized in a way that is not supported: {error}") from error

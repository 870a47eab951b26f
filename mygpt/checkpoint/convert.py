"""A checkpoint to a folder of safetensors: cast, or quantized in a scheme of `--quantize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.config_check import checked_config
from mygpt.checkpoint.fill import weight_targets
from mygpt.checkpoint.write import with_dtype, write_folder, written_bytes
from mygpt.errors import InputError
from mygpt.families._base import Family
from mygpt.model.config import Config
from mygpt.model.gpt import GPT
from mygpt.model.linear import Linear
from mygpt.quantize.linear import quantizable, weight_names
from mygpt.quantize.schemes import Quantizer

Report = Callable[[str, int], None]  # a tensor has been read, of so many bytes


def convert(
    checkpoint: Checkpoint,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    scheme: Quantizer | None = None,
    report: Report = lambda name, nbytes: None,
) -> None:
    """Write a checkpoint to the folder `target`, which appears when it is complete.

    Names are those of the source, and so are matrices: one that is fused in the source is quantized as a whole, as
    transformers does. With `scheme`, what is not quantized is in `dtype`, by default bfloat16.

    Raises:
        InputError: the target exists, or the source cannot be cast or quantized.
        RunError: the disk is full.
    """
    if scheme is None:
        write_folder(checkpoint, target, dtype, tensors=_watched(checkpoint, report))
        return
    if checkpoint.scheme is not None:
        raise InputError(
            f"{checkpoint.path} is stored quantized already; quantize the original, or leave --quantize out"
        )
    family, architecture = checked_config(checkpoint)
    dtype = dtype or torch.bfloat16
    with torch.device("meta"):
        model = GPT(architecture)
    plan = _Plan(model, family, architecture, scheme)
    chosen = {
        name: shape for name, (shape, _) in checkpoint.shapes().items() if plan.quantizes(name, shape)
    }  # before the first is read, so that what cannot be done is told at once
    skipped = plan.skipped(set(checkpoint.shapes()) - set(chosen))
    name = str(dtype).removeprefix("torch.")
    config = with_dtype(checkpoint.config, dtype) | {
        "quantization_config": scheme.quantization_config(name, skipped)
    }
    tensors = _quantized(_watched(checkpoint, report), set(chosen), scheme, dtype)
    nbytes = written_bytes(checkpoint, dtype)
    for rows, columns in chosen.values():
        nbytes += scheme.layer_bytes([rows], columns, dtype, "cpu") - rows * columns * dtype.itemsize
    write_folder(checkpoint, target, tensors=tensors, config=config, nbytes=nbytes)


def stored_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of all tensors that `convert` reads and reports."""
    return written_bytes(checkpoint, None)


def _watched(checkpoint: Checkpoint, report: Report) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in checkpoint.tensors():
        yield name, tensor
        report(name, tensor.nbytes)


def _quantized(
    tensors: Iterator[tuple[str, Tensor]], chosen: set[str], scheme: Quantizer, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        floats = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if name in chosen:
            yield from scheme.write(name, scheme.quantize(floats), dtype)
        else:
            yield name, floats


class _Plan:
    """Which of a file's matrices are those that `--quantize` would quantize while loading."""

    def __init__(self, model: nn.Module, family: Family, config: Config, scheme: Quantizer) -> None:
        self._family, self._config, self._scheme = family, config, scheme
        self._ours = {
            name for path, layer in quantizable(model).items() for name in weight_names(path, layer)
        }
        self._linear = {
            name
            for name, target in weight_targets(model).items()
            if isinstance(target.module, Linear) and target.parameter == "weight"
        }

    def quantizes(self, name: str, shape: torch.Size) -> bool:
        """Whether the tensor is such a matrix.

        Raises:
            InputError: it is one, but of a form that the scheme's files do not have.
        """
        targets = self._family.targets(name, self._config)
        if not targets or not self._ours.issuperset(targets):
            return False
        later = "run the original with --quantize instead, which needs no conversion"
        if len(shape) != 2:
            raise InputError(
                f"{name} holds {shape[0]} matrices, which files in {self._scheme.name} cannot; {later}"
            )
        # Rows must stay rows in our layout, for what is quantized can be parted and ordered by rows alone.
        columns = 3  # few, so that they are told from rows; GPT-2 divides its columns among q, k and v
        probe = torch.empty(shape[0], columns, device="meta")
        parts = self._family.translate(name, probe, self._config) or ()
        if any(part.shape[-1] != columns for _, part in parts):
            raise InputError(
                f"{name} is stored transposed, which files in {self._scheme.name} cannot say; {later}"
            )
        whole = [part is probe for _, part in parts] == [True]
        if obstacle := self._scheme.obstacle(shape, fused=not whole):
            raise InputError(f"{name} {obstacle}; {later}")
        return True

    def skipped(self, others: set[str]) -> list[str]:
        """The linear modules among the tensors that are not quantized, if others than the head are."""
        modules = {
            name.removesuffix(".weight")
            for name in others
            if self._linear.intersection(self._family.targets(name, self._config))
        }
        heads = {
            name.removesuffix(".weight") for name in self._family.names if self._is_head(name)
        }  # a tied one is a module too, in transformers
        return sorted(modules | heads) if modules - heads else []

    def _is_head(self, name: str) -> bool:
        return self._family.names[name] == "head.weight"

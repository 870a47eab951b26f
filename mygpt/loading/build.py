"""Builds the model, or this rank's part of it, from a checkpoint and a placement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch

from mygpt import kernels
from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.fill import Weight, translated
from mygpt.checkpoint.progress import progress_bar
from mygpt.errors import InputError
from mygpt.families._base import Family
from mygpt.model.config import Config
from mygpt.model.fused_block import fuse_blocks
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.devices import DTYPES, cast, pick_precision
from mygpt.parallel.placement import Placement
from mygpt.parallel.rank_env import is_worker
from mygpt.parallel.sequential import SequentialGPT
from mygpt.quantize.linear import expect_stored, quantize_linears
from mygpt.quantize.schemes import PackedScheme, Scheme, quantizers


def pick_scheme(
    stored: Scheme | None, source: str, quantize: str | None, strategy: str | None, device: torch.device
) -> PackedScheme | None:
    """What the linear layers are in: as `--quantize` says, or as the weights are stored, if they stay packed.

    Raises:
        InputError: the two differ, or the devices cannot run packed weights.
    """
    packed = stored if isinstance(stored, PackedScheme) else None
    if packed and quantize not in (None, packed.name):
        raise InputError(
            f"--quantize {quantize}: {source} is stored as {packed.name} already; leave the option out"
        )
    scheme = packed or (quantizers()[quantize] if quantize else None)
    if scheme and device.type == "mps":
        raise InputError(f"{scheme.name}: quantized weights do not run on mps; use --accelerator cpu")
    if scheme and strategy == "fsdp":
        raise InputError(
            f"--strategy fsdp does not share out quantized weights ({scheme.name}); use another strategy"
        )
    return scheme


def limit_context(config: Config, context_length: int | None) -> Config:
    """The model with the context of `--context_length` (None: its own). Its rope and windows do not depend on that.

    Raises:
        InputError: the model's own context is smaller.
    """
    if context_length is None:
        return config
    if context_length > config.context_length:
        raise InputError(
            f"--context_length {context_length} is more than the model's context of {config.context_length} tokens; "
            "take at most that, or leave it out"
        )
    return replace(config, context_length=context_length)


def build(
    checkpoint: Checkpoint,
    family: Family,
    config: Config,
    placement: Placement,
    options: LoadOptions,
    *,
    name: str = "the model",
) -> tuple[GPT, str]:
    """The checkpoint's model, or this rank's part, and its precision; weights stream from the file one by one.

    `family` and `config` are what its `config.json` means (`read_config`). A terminal shows `name` meanwhile.
    """
    source, device, stored = str(checkpoint.path), placement.devices[0], checkpoint.scheme
    scheme = pick_scheme(stored, source, options.quantize, placement.strategy, device)
    model, precision = empty_model(
        config, placement.strategy, options.precision, device, quantized=scheme is not None
    )
    if scheme is not None and scheme is stored:
        packed = scheme.packed_names(checkpoint)
        names = {name for file_name in packed for name in family.targets(file_name, config)}
        expect_stored(model, names, scheme, DTYPES[precision])
    elif scheme is not None:
        quantize_linears(model, scheme, DTYPES[precision])
    tensors = stored.tensors(checkpoint, device) if stored else checkpoint.tensors()
    itemsize = DTYPES[precision].itemsize
    total = itemsize * sum(parameter.numel() for parameter in model.parameters())
    with progress_bar(f"loading {name}", total, show=not is_worker()) as advance:
        weights = _counted(translated(tensors, family, config), lambda count: advance(itemsize * count))
        placement.fill(model, weights, precision, source)
    if device.type == "cpu":
        kernels.prepare()  # the first time ever this compiles them: here, not within the first token's time
    if placement.ranks is None and not options.compile:
        fuse_blocks(model)
    return model.eval(), precision


def _counted(
    tensors: Iterable[tuple[str, Weight]], report: Callable[[int], None]
) -> Iterator[tuple[str, Weight]]:
    """The same stream; `report` is told how many numbers each weight has, once it is where it belongs."""
    for name, tensor in tensors:
        count = math.prod(tensor.shape)
        yield name, tensor
        del tensor  # before the next one is read
        report(count)


def empty_model(
    config: Config,
    strategy: str | None,
    precision: str | None,
    device: torch.device,
    *,
    quantized: bool = False,
) -> tuple[GPT, str]:
    """The whole model on the meta device, in its precision, which is returned too; `device` is its first."""
    with torch.device("meta"):
        model = SequentialGPT(config) if strategy == "sequential" else GPT(config)
    precision = pick_precision(precision, device, model, quantized=quantized)
    cast(model, precision)
    return model, precision

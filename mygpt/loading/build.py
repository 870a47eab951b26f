"""A checkpoint and a placement to the model, or to this rank's part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mygpt import kernels
from mygpt.checkpoint.fill import Weight, translated
from mygpt.checkpoint.open import Checkpoint
from mygpt.errors import InputError
from mygpt.families import quantization_method, read_config
from mygpt.model.config import Config
from mygpt.model.fused_block import fuse_blocks
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.devices import DTYPES, cast, pick_precision
from mygpt.parallel.placement import Placement
from mygpt.parallel.sequential import SequentialGPT
from mygpt.quantize import fp8, mxfp4
from mygpt.quantize.bnb_format import assemble, stored_matrices
from mygpt.quantize.linear import expect_stored, quantize_linears
from mygpt.quantize.modes import MODES, Mode, stored_mode

DEQUANTIZERS = {"fp8": fp8.dequantized, "mxfp4": mxfp4.dequantized}


def pick_mode(
    raw: Mapping[str, Any], source: str, quantize: str | None, strategy: str | None, device: torch.device
) -> Mode | None:
    """How the model is quantized: as `--quantize` says, or as `config.json` (`raw`) says that its weights are stored.

    Raises:
        InputError: the two differ, or the devices cannot run quantized weights.
    """
    stored = None if quantization_method(raw) in DEQUANTIZERS else stored_mode(raw, source)
    if stored and quantize not in (None, stored.name):
        raise InputError(
            f"--quantize {quantize}: {source} is stored as {stored.name} already; leave the option out"
        )
    mode = stored or (MODES[quantize] if quantize else None)
    if mode and device.type == "mps":
        raise InputError(f"{mode.name}: quantized weights do not run on mps; use --accelerator cpu")
    if mode and strategy == "fsdp":
        raise InputError(
            f"--strategy fsdp does not share out quantized weights ({mode.name}); use another strategy"
        )
    return mode


def build(checkpoint: Checkpoint, placement: Placement, options: LoadOptions) -> tuple[GPT, str]:
    """The checkpoint's model, or this rank's part, and its precision; weights stream from the file one by one."""
    source, device = str(checkpoint.path), placement.devices[0]
    family, config = read_config(checkpoint.config, source)
    mode = pick_mode(checkpoint.config, source, options.quantize, placement.strategy, device)
    model, precision = empty_model(config, placement.strategy, options.precision, device, mode)
    tensors: Iterable[tuple[str, Weight]] = checkpoint.tensors()
    method = quantization_method(checkpoint.config)
    if dequantized := DEQUANTIZERS.get(method):
        tensors = dequantized(checkpoint.tensors(), device)
    if mode is not None and method not in (None, *DEQUANTIZERS):
        groups = stored_matrices(checkpoint.shapes())
        names = {name for file_name in groups for name in family.targets(file_name, config)}
        expect_stored(model, names, mode, DTYPES[precision])
        tensors = assemble(checkpoint.tensors(), groups, source)
    elif mode is not None:
        quantize_linears(model, mode, DTYPES[precision])
    placement.fill(model, translated(tensors, family, config), precision, source)
    if device.type == "cpu":
        kernels.prepare()  # the first time ever this compiles them: here, not within the first token's time
    if placement.ranks is None and not options.compile:
        fuse_blocks(model)
    return model.eval(), precision


def empty_model(
    config: Config, strategy: str | None, precision: str | None, device: torch.device, mode: Mode | None
) -> tuple[GPT, str]:
    """The whole model on the meta device, in its precision, which is returned too; `device` is its first."""
    with torch.device("meta"):
        model = SequentialGPT(config) if strategy == "sequential" else GPT(config)
    precision = pick_precision(precision, device, model, quantized=mode is not None)
    cast(model, precision)
    return model, precision

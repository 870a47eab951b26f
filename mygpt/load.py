"""The one place that puts checkpoint, model, placement, tokenizer and prompts together."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mygpt import fp8, kernels, mxfp4
from mygpt.checkpoint import Checkpoint, open_checkpoint
from mygpt.completion import peak_memory_bytes
from mygpt.config import Config
from mygpt.errors import InputError
from mygpt.families import check_folder, quantization_method, read_config
from mygpt.hub import resolve
from mygpt.model import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.channel import Channel, Leader, follow
from mygpt.parallel.devices import DTYPES, cast, pick_precision
from mygpt.parallel.placement import Placement, choose_placement
from mygpt.parallel.sequential import SequentialGPT
from mygpt.prompts import Prompter
from mygpt.quantize.linear import Summary, expect_stored, quantize_linears, summarize
from mygpt.quantize.modes import MODES, Mode, stored_mode
from mygpt.quantize.stored import assemble, stored_matrices
from mygpt.weights import Weight, translated

DEQUANTIZERS = {"fp8": fp8.dequantized, "mxfp4": mxfp4.dequantized}


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and what belongs to it.

    Attributes:
        model: on its devices; `Leader` where several processes run it.
        prompter: None where the checkpoint holds no tokenizer, so that ids alone can be run.
        stop_ids: the end tokens.
        devices: their names, in the order of the layers or ranks.
        precision: as `--precision`.
        strategy: how the devices share the work, None for one.
        load_s: how long all this took.
        quantized: what of this process's part is quantized.
    """

    model: GPT | Leader
    prompter: Prompter | None
    stop_ids: frozenset[int]
    devices: tuple[str, ...]
    precision: str
    strategy: str | None
    load_s: float
    quantized: Summary | None = None

    @property
    def device(self) -> torch.device:
        """The first device."""
        return torch.device(self.devices[0])

    @property
    def placement(self) -> str:
        """The devices, and how they share the work."""
        names = ",".join(self.devices)
        return f"{names} ({self.strategy})" if self.strategy else names

    @property
    def vocab_size(self) -> int:
        """Ids from here on are padding of the embedding, and have no text."""
        size = self.model.config.vocab_size
        return min(size, self.prompter.tokenizer.vocab_size) if self.prompter else size

    def peak_memory(self) -> list[int]:
        """The most bytes that each device held; on the CPU, each process."""
        if isinstance(self.model, Leader):
            return self.model.peak_memory()
        devices = [torch.device(name) for name in self.devices]
        distinct = {device if device.type == "cuda" else device.type: device for device in devices}
        return [peak_memory_bytes(device) for device in distinct.values()]


def load(name: str | None, options: LoadOptions) -> Loaded:
    """Find the checkpoint `name` (None: the default model) and put it on its devices.

    With several ranks, this returns in rank 0 alone: the others follow it until it ends.

    Raises:
        InputError: whatever of the checkpoint or the options cannot be used.
    """
    start = time.perf_counter()
    path = resolve(name, access_token=options.access_token, revision=options.revision, check=check_folder)
    checkpoint = open_checkpoint(path)
    # Before the weights, which take longer to read: a broken tokenizer or style is told at once.
    tokenizer = checkpoint.tokenizer()
    folder = path if path.is_dir() else None
    prompter = Prompter.choose(tokenizer, folder, options.prompt_style) if tokenizer else None
    stop_ids = _stop_ids(checkpoint, prompter)
    _, config = read_config(checkpoint.config, str(checkpoint.path))
    placement = choose_placement(config, options)
    model, precision = build(checkpoint, placement, options)
    quantized = summarize(model)
    if options.compile:
        compile_model(model)
    placed: GPT | Leader = model
    if placement.ranks is not None:
        channel = Channel(placement.ranks)
        if placement.ranks.rank > 0:
            follow(model, channel)
            sys.exit()
        placed = Leader(model, channel)
    load_s = time.perf_counter() - start
    return Loaded(
        placed, prompter, stop_ids, placement.names, precision, placement.strategy, load_s, quantized
    )


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
    if device.type == "cpu":
        kernels.library()  # the first time ever this compiles them: here, not within the first token's time
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


def compile_model(model: GPT) -> None:
    """Compile each block, once for all of them; shapes that change are symbols, so nothing is compiled anew."""
    for layer in model.layers:
        layer.compile(dynamic=True)


def _stop_ids(checkpoint: Checkpoint, prompter: Prompter | None) -> frozenset[int]:
    """Every end token that the repository names, wherever it does."""
    ids = {*prompter.tokenizer.eos_ids(), *prompter.stop_token_ids} if prompter else set()
    text = checkpoint.config.get("text_config")  # a multimodal repository's
    for values in (checkpoint.config, text if isinstance(text, dict) else {}, checkpoint.generation_config):
        eos = values.get("eos_token_id")
        listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if not all(isinstance(token, int) for token in listed):
            raise InputError(f"{checkpoint.path}: 'eos_token_id' must be whole numbers, it is {eos!r}")
        ids.update(listed)
    return frozenset(ids)

"""The one place that puts checkpoint, model, placement, tokenizer and prompts together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mygpt.checkpoint import Checkpoint, open_checkpoint
from mygpt.errors import InputError
from mygpt.families import check_folder, read_config
from mygpt.hub import resolve
from mygpt.model import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.single import DTYPES, mover, pick_device, pick_precision
from mygpt.prompts import Prompter
from mygpt.quantize.linear import Summary, expect_stored, quantize_linears, summarize
from mygpt.quantize.modes import MODES, Mode, stored_mode
from mygpt.quantize.stored import assemble, stored_matrices
from mygpt.weights import Weight, fill, translated


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and what belongs to it."""

    model: GPT
    prompter: Prompter | None  # None: the checkpoint holds no tokenizer, ids alone can be run
    stop_ids: frozenset[int]
    device: torch.device
    precision: str
    load_s: float
    quantized: Summary | None = None

    @property
    def vocab_size(self) -> int:
        """Ids from here on are padding of the embedding, and have no text."""
        size = self.model.config.vocab_size
        return min(size, self.prompter.tokenizer.vocab_size) if self.prompter else size


def load(name: str | None, options: LoadOptions) -> Loaded:
    """Find the checkpoint `name` (None: the default model) and put it on its device.

    Raises:
        InputError: whatever of the checkpoint or the options cannot be used.
    """
    start = time.perf_counter()
    device = pick_device(options.accelerator)
    path = resolve(name, access_token=options.access_token, revision=options.revision, check=check_folder)
    checkpoint = open_checkpoint(path)
    # Before the weights, which take longer to read: a broken tokenizer or style is told at once.
    tokenizer = checkpoint.tokenizer()
    folder = path if path.is_dir() else None
    prompter = Prompter.choose(tokenizer, folder, options.prompt_style) if tokenizer else None
    stop_ids = _stop_ids(checkpoint, prompter)
    mode = pick_mode(checkpoint, options.quantize, device)
    model, precision = build(checkpoint, device, options.precision, mode)
    if options.compile:
        compile_model(model)
    quantized = summarize(model, mode) if mode else None
    return Loaded(model, prompter, stop_ids, device, precision, time.perf_counter() - start, quantized)


def pick_mode(checkpoint: Checkpoint, quantize: str | None, device: torch.device) -> Mode | None:
    """How the model is quantized: as `--quantize` says, or as its weights are stored.

    Raises:
        InputError: the two differ, or the device has no kernels for quantized weights.
    """
    stored = stored_mode(checkpoint.config, str(checkpoint.path))
    if stored and quantize not in (None, stored.name):
        raise InputError(
            f"--quantize {quantize}: {checkpoint.path} is stored as {stored.name} already; leave the option out"
        )
    mode = stored or (MODES[quantize] if quantize else None)
    if mode and device.type == "mps":
        raise InputError(f"{mode.name}: quantized weights do not run on mps; use --accelerator cpu")
    return mode


def build(
    checkpoint: Checkpoint, device: torch.device, precision: str | None, mode: Mode | None = None
) -> tuple[GPT, str]:
    """The checkpoint's model and its precision; the weights stream from the file to the device one by one."""
    source = str(checkpoint.path)
    family, config = read_config(checkpoint.config, source)
    with torch.device("meta"):
        model = GPT(config)
    precision = pick_precision(precision, device, model, quantized=mode is not None)
    dtype = DTYPES[precision]
    tensors: Iterator[tuple[str, Weight]] = checkpoint.tensors()
    if stored_mode(checkpoint.config, source):
        groups = stored_matrices(checkpoint.shapes())
        expect_stored(
            model, {name for file_name in groups for name in family.targets(file_name, config)}, dtype
        )
        tensors = assemble(checkpoint.tensors(), groups, source)
    elif mode is not None:
        quantize_linears(model, mode, dtype)
    fill(model, translated(tensors, family, config), mover(device, dtype), source)
    for buffer in (model.rope, model.window_rope):
        if buffer is not None:
            buffer.to(device)
    return model.eval(), precision


def compile_model(model: GPT) -> None:
    """Compile each block, once for all of them; shapes that change are symbols, so nothing is compiled anew."""
    for layer in model.layers:
        layer.compile(dynamic=True)


def _stop_ids(checkpoint: Checkpoint, prompter: Prompter | None) -> frozenset[int]:
    """Every end token that the repository names, wherever it does."""
    ids = {*prompter.tokenizer.eos_ids(), *prompter.stop_token_ids} if prompter else set()
    for values in (checkpoint.config, checkpoint.generation_config):
        eos = values.get("eos_token_id")
        listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if not all(isinstance(token, int) for token in listed):
            raise InputError(f"{checkpoint.path}: 'eos_token_id' must be whole numbers, it is {eos!r}")
        ids.update(listed)
    return frozenset(ids)

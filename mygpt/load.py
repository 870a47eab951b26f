"""The one place that puts checkpoint, model, placement, tokenizer and prompts together."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from mygpt import kernels
from mygpt.checkpoint import Checkpoint, open_checkpoint
from mygpt.errors import InputError
from mygpt.families import check_folder, read_config
from mygpt.hub import resolve
from mygpt.model import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.single import DTYPES, mover, pick_device, pick_precision
from mygpt.prompts import Prompter
from mygpt.weights import fill, translated


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and what belongs to it."""

    model: GPT
    prompter: Prompter | None  # None: the checkpoint holds no tokenizer, ids alone can be run
    stop_ids: frozenset[int]
    device: torch.device
    precision: str
    load_s: float

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
    model, precision = build(checkpoint, device, options.precision)
    if options.compile:
        compile_model(model)
    return Loaded(model, prompter, stop_ids, device, precision, time.perf_counter() - start)


def build(checkpoint: Checkpoint, device: torch.device, precision: str | None) -> tuple[GPT, str]:
    """The checkpoint's model and its precision; the weights stream from the file to the device one by one."""
    source = str(checkpoint.path)
    family, config = read_config(checkpoint.config, source)
    with torch.device("meta"):
        model = GPT(config)
    precision = pick_precision(precision, device, model)
    place = mover(device, DTYPES[precision])
    if device.type == "cpu":
        kernels.library()  # the first time ever this compiles them: here, not within the first token's time
    fill(model, translated(checkpoint.tensors(), family, config), place, source)
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

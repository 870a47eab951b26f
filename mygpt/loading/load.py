"""The one place that puts checkpoint, model, placement, tokenizer and prompts together."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mygpt import kernels
from mygpt.checkpoint.open import Checkpoint, open_checkpoint
from mygpt.engine.detokenizer import peak_memory_bytes
from mygpt.errors import InputError
from mygpt.families import check_folder, read_config
from mygpt.hub.resolve import resolve
from mygpt.loading.allocator import keep_freed_memory
from mygpt.loading.build import build
from mygpt.loading.compile import Compiled, compile_model, prepare_compiler
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.placement import choose_placement
from mygpt.parallel.remote_model import Channel, Leader, follow
from mygpt.quantize.linear import Summary, summarize
from mygpt.text.chat_template import Prompter


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
        kernels: which of mygpt's kernels run it, as `avx512+amx`, or `none: ` and why there are none.
        draft: the smaller model of `--draft`.
    """

    model: GPT | Compiled | Leader
    prompter: Prompter | None
    stop_ids: frozenset[int]
    devices: tuple[str, ...]
    precision: str
    strategy: str | None
    load_s: float
    quantized: Summary | None = None
    kernels: str = "none"
    draft: Loaded | None = None

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
    if options.compile:
        prepare_compiler(placement)
    model, precision = build(checkpoint, placement, options)
    quantized = summarize(model)
    keep_freed_memory()
    runner = compile_model(model, placement) if options.compile else model
    placed: GPT | Compiled | Leader = runner
    if placement.ranks is not None:
        channel = Channel(placement.ranks)
        if placement.ranks.rank > 0:
            follow(runner, channel)
            sys.exit()
        placed = Leader(runner, channel)
    names, strategy = placement.names, placement.strategy
    ran = kernels_of(names, precision, compiled=options.compile)
    loaded = Loaded(placed, prompter, stop_ids, names, precision, strategy, 0.0, quantized, ran)
    draft = load_draft(options.draft, loaded, options) if options.draft else None
    return replace(loaded, draft=draft, load_s=time.perf_counter() - start)


def kernels_of(devices: Sequence[str], precision: str, *, compiled: bool) -> str:
    """`Loaded.kernels` of a model on these devices."""
    kinds = [torch.device(name).type for name in devices]
    if "cpu" not in kinds:
        return f"none: {kinds[0]}"
    if precision == "16-true" or compiled:
        return "none: --compile" if compiled else f"none: {precision}"
    return kernels.describe()


def load_draft(name: str, target: Loaded, options: LoadOptions) -> Loaded:
    """The model of `--draft` beside the one that it drafts for: on its first device, in its precision.

    Raises:
        InputError: whatever `load` refuses, or its ids do not mean the same as the target's.
    """
    device = target.device
    alone = replace(
        options,
        draft=None,
        devices=1 if device.index is None else str(device),
        accelerator=device.type,
        num_nodes=1,
        strategy=None,
        cpu_offload=False,
        precision=target.precision,
        prompt_style=None,
        revision=None,
    )
    draft = load(name, alone)
    check_same_vocabulary(name, draft, target)
    return draft


def check_same_vocabulary(name: str, draft: Loaded, target: Loaded) -> None:
    """See that every id is the same token of both models; without tokenizers, that they have as many.

    Raises:
        InputError: it is not so.
    """
    advice = "take a smaller model of the same family"
    if draft.prompter is None or target.prompter is None:
        sizes = draft.vocab_size, target.vocab_size
        if sizes[0] != sizes[1]:
            raise InputError(f"--draft {name}: it has {sizes[0]} ids and the model {sizes[1]}; {advice}")
        return
    ours, theirs = (loaded.prompter.tokenizer.vocabulary for loaded in (target, draft) if loaded.prompter)
    if differing := ours.items() ^ theirs.items():
        token, token_id = min(differing, key=lambda item: item[1])
        raise InputError(
            f"--draft {name}: its tokenizer is not the model's, id {token_id} ({token!r}) is in one of them only; "
            f"{advice}"
        )


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

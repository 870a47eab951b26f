"""Loads a model: puts checkpoint, model, placement, tokenizer and prompt encoder together, for all commands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from mygpt import kernels
from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.config_check import checked_config
from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError, WorkerFinished
from mygpt.hub.default_model import REPO, recommended
from mygpt.hub.resolve import resolve
from mygpt.loading.allocator import keep_freed_memory
from mygpt.loading.build import build, limit_context
from mygpt.loading.compile import Compiled, compile_model, prepare_compiler
from mygpt.loading.generation_config import GenerationConfig, read_generation_config
from mygpt.loading.memory_check import check_before_download, check_memory
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.devices import peak_memory_bytes
from mygpt.parallel.message_bus import MessageBus
from mygpt.parallel.placement import Placement, choose_placement
from mygpt.parallel.rank_env import is_worker
from mygpt.parallel.remote_model import RemoteModel, run_worker
from mygpt.quantize.linear import Summary, summarize
from mygpt.text.prompt_encoder import PromptEncoder
from mygpt.text.template_process import start_spare


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what belongs to it.

    Attributes:
        model: on its devices; `RemoteModel` where several processes run it.
        prompt_encoder: None where the checkpoint holds no tokenizer, so that ids alone can be run.
        stop_ids: the end tokens.
        devices: their names, in the order of the layers or ranks.
        precision: as `--precision`.
        strategy: how the devices share the work, None for one.
        load_s: how long all this took.
        quantized: what of this process's part is quantized.
        kernels: which of mygpt's kernels run it, as `avx512+amx`, or `none: ` and why there are none.
        draft: the smaller model of `--draft`.
        generation: how the model's authors recommend to sample from it.
    """

    model: GPT | Compiled | RemoteModel
    prompt_encoder: PromptEncoder | None
    stop_ids: frozenset[int]
    devices: tuple[str, ...]
    precision: str
    strategy: str | None
    load_s: float
    quantized: Summary | None = None
    kernels: str = "none"
    draft: LoadedModel | None = None
    generation: GenerationConfig = field(default_factory=GenerationConfig)

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
        return min(size, self.prompt_encoder.tokenizer.vocab_size) if self.prompt_encoder else size

    def peak_memory(self) -> list[int]:
        """The most bytes that each device held; on the CPU, each process."""
        if isinstance(self.model, RemoteModel):
            return self.model.peak_memory()
        devices = [torch.device(name) for name in self.devices]
        distinct = {device if device.type == "cuda" else device.type: device for device in devices}
        return [peak_memory_bytes(device) for device in distinct.values()]


def load(name: str | None, options: LoadOptions) -> LoadedModel:
    """Find the checkpoint `name` (None: the default model) and put it on its devices.

    With several ranks, this returns in rank 0 alone. The others are its workers, and stay here until it ends.

    Raises:
        InputError: whatever of the checkpoint or the options cannot be used.
        WorkerFinished: in a worker, once rank 0 has ended.
    """
    start = time.perf_counter()
    if options.prompt_style != "raw" and not is_worker():
        start_spare()
    path = resolve(
        name,
        access_token=options.access_token,
        revision=options.revision,
        check=lambda folder: check_before_download(folder, name, options),
    )
    checkpoint = open_checkpoint(path)
    # Before the weights, which take longer to read: a broken tokenizer or style is told at once.
    tokenizer = checkpoint.tokenizer()
    prompt_encoder = PromptEncoder.choose(tokenizer, path, options.prompt_style) if tokenizer else None
    if prompt_encoder and not is_worker():
        prompt_encoder.prepare()
    stop_ids = _stop_ids(checkpoint, prompt_encoder)
    recommendations = {**recommended(name), **checkpoint.generation_config}
    generation = read_generation_config(recommendations, str(path))
    family, config = checked_config(checkpoint)
    config = limit_context(config, options.context_length)
    check_memory(name, checkpoint, config, options)
    placement = choose_placement(config, options, name)
    if options.compile:
        prepare_compiler(placement)
    model, precision = build(checkpoint, family, config, placement, options, name=name or REPO)
    quantized = summarize(model)
    keep_freed_memory()
    runner = compile_model(model, placement) if options.compile else model
    names, strategy = placement.names, placement.strategy
    placed, ran = join_ranks(runner, placement), kernels_of(names, precision, compiled=options.compile)
    loaded = LoadedModel(placed, prompt_encoder, stop_ids, names, precision, strategy, 0.0, quantized, ran)
    draft = load_draft(options.draft, loaded, options) if options.draft else None
    return replace(loaded, draft=draft, generation=generation, load_s=time.perf_counter() - start)


def join_ranks(model: GPT | Compiled, placement: Placement) -> GPT | Compiled | RemoteModel:
    """Rank 0's view of a model that is on several ranks; the model itself where it is on one.

    Raises:
        WorkerFinished: in a worker, which did what rank 0 asked for until rank 0 ended.
    """
    if placement.ranks is None:
        return model
    bus = MessageBus(placement.ranks)
    if placement.ranks.rank == 0:
        return RemoteModel(model, bus)
    run_worker(model, bus)
    raise WorkerFinished


def kernels_of(devices: Sequence[str], precision: str, *, compiled: bool) -> str:
    """`LoadedModel.kernels` of a model on these devices."""
    kinds = [torch.device(name).type for name in devices]
    if "cpu" not in kinds:
        return f"none: {kinds[0]}"
    if precision == "16-true" or compiled:
        return "none: --compile" if compiled else f"none: {precision}"
    return kernels.describe()


def load_draft(name: str, target: LoadedModel, options: LoadOptions) -> LoadedModel:
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
        prompt_style="raw",
        revision=None,
        context_length=None,
    )
    draft = load(name, alone)
    check_same_vocabulary(name, draft, target)
    return draft


def check_same_vocabulary(name: str, draft: LoadedModel, target: LoadedModel) -> None:
    """See that every id is the same token of both models; without tokenizers, that they have as many.

    Raises:
        InputError: it is not so.
    """
    advice = "take a smaller model of the same family"
    if draft.prompt_encoder is None or target.prompt_encoder is None:
        sizes = draft.vocab_size, target.vocab_size
        if sizes[0] != sizes[1]:
            raise InputError(f"--draft {name}: it has {sizes[0]} ids and the model {sizes[1]}; {advice}")
        return
    ours, theirs = (
        loaded.prompt_encoder.tokenizer.vocabulary for loaded in (target, draft) if loaded.prompt_encoder
    )
    if differing := ours.items() ^ theirs.items():
        token, token_id = min(differing, key=lambda item: item[1])
        raise InputError(
            f"--draft {name}: its tokenizer is not the model's, id {token_id} ({token!r}) is in one of them only; "
            f"{advice}"
        )


def _stop_ids(checkpoint: Checkpoint, prompt_encoder: PromptEncoder | None) -> frozenset[int]:
    """Every end token that the repository names, wherever it does."""
    ids = {*prompt_encoder.tokenizer.eos_ids(), *prompt_encoder.stop_token_ids} if prompt_encoder else set()
    text = checkpoint.config.get("text_config")  # a multimodal repository's
    for values in (checkpoint.config, text if isinstance(text, dict) else {}, checkpoint.generation_config):
        eos = values.get("eos_token_id")
        listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if not all(isinstance(token, int) for token in listed):
            raise InputError(f"{checkpoint.path}: 'eos_token_id' must be whole numbers, it is {eos!r}")
        ids.update(listed)
    return frozenset(ids)

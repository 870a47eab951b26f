"""Refuses a model that does not fit the free memory, before its weights are read, and says what would fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.disk import gigabytes
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.hub.default_model import REPO
from mygpt.json_files import read_json
from mygpt.loading.build import limit_context
from mygpt.loading.plan import Plan, make_plan
from mygpt.loading.room import Room
from mygpt.loading.workspace import Workload
from mygpt.messages import tell
from mygpt.model.config import Config
from mygpt.options import LoadOptions
from mygpt.parallel.devices import free_bytes, pick_devices
from mygpt.parallel.host_memory import free_host_bytes
from mygpt.parallel.rank_env import first_on_machine
from mygpt.quantize.schemes import Scheme, stored_scheme

SKIP = "MYGPT_SKIP_MEMORY_CHECK"
# What any use of a model takes beside its weights: a token of prompt, and one of an answer.
LEAST = Workload(1, 2, 1)
# A file of 2 bits a weight becomes 16 times as large in float32, never larger.
MOST_GROWTH = 16


def check_memory(name: str | None, checkpoint: Checkpoint, config: Config, options: LoadOptions) -> None:
    """See that the weights of a checkpoint fit.

    There is no margin: only what surely cannot be held is refused. Weights that a CPU uses as they lie in the file do
    not count, for the system drops them where memory is short; where they do not fit, a note says that it is slow.

    Raises:
        InputError: they do not fit; it names what would.
    """
    path = checkpoint.path
    files = path.iterdir() if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size * MOST_GROWTH > _free(options):  # else a plan would cost tens of milliseconds for nothing
        check_plan(name, config, checkpoint.scheme, options, checkpoint.mapped_dtype, note=True)


def _free(options: LoadOptions) -> float:
    """Bytes that the first device surely has, which may be all that are needed; infinite where it is not known."""
    device = pick_devices(options.accelerator, options.devices)[0]
    if device.type == "cuda" and not options.cpu_offload:
        return free_bytes(device)
    free = free_host_bytes()
    return float("inf") if free is None else free


def check_before_download(folder: Path, name: str | None, options: LoadOptions) -> None:
    """The same by the `config.json` of a folder whose weights are not there yet.

    Raises:
        InputError: the model does not fit, or is not supported.
    """
    raw = read_json(folder / "config.json")
    config = limit_context(read_config(raw, str(folder))[1], options.context_length)
    dtype = getattr(torch, str(raw.get("dtype", raw.get("torch_dtype"))), None)
    if isinstance(dtype, torch.dtype):  # else it is not known whether weights can stay in the file
        check_plan(name, config, stored_scheme(raw, str(folder)), options, dtype, note=False)


def check_plan(
    name: str | None,
    config: Config,
    stored: Scheme | None,
    options: LoadOptions,
    file_dtype: torch.dtype | None,
    *,
    note: bool,
) -> None:
    """See that a model fits, whose weights lie in files as `file_dtype` (see `make_plan`).

    With `note`, one that runs but is slow is told of on standard error.

    Raises:
        InputError: it does not.
    """
    if os.environ.get(SKIP) == "1" or not first_on_machine():
        return
    plan = make_plan(config, stored, options, LEAST, file_dtype=file_dtype, all_devices=False)
    if plan.fits is not False or plan.rooms is None:
        return
    tight = min(plan.rooms, key=lambda room: (room.free - room.held, room.free - room.needed))
    model = name or REPO
    fitting = [*remedies(config, stored, options, LEAST), "a smaller model"]
    if tight.held > tight.free:
        raise InputError(
            f"{told(model, tight)}: use {one_of(fitting)}; 'mygpt plan {model}' shows more, and {SKIP}=1 tries it "
            "all the same"
        )
    if note:
        slow = "so weights are read from the disk again and again; faster is"
        tell(f"note: {told(model, tight)}, {slow} {one_of(fitting)}")


def told(model: str, room: Room) -> str:
    """What is needed and what is free."""
    return f"{model} takes {gigabytes(room.needed)} on {room.name} for this run and {gigabytes(room.free)} are free"


def one_of(choices: list[str]) -> str:
    """Choices in words."""
    return ", ".join(choices[:-1]) + " or " + choices[-1] if len(choices) > 1 else choices[0]


def remedies(
    config: Config, stored: Scheme | None, options: LoadOptions, work: Workload, memory: float | None = None
) -> list[str]:
    """The options with which a model fits that does not by `options`, each with the bytes of the fullest memory.

    The arguments are those of `make_plan`.
    """
    found: list[str] = []
    for changes in _changes(options, work, memory):
        kinds = [option.split()[0] for option in found]
        text = " ".join(f"--{key} {value}" for key, value in changes.items())
        if text.split()[0] in kinds:
            continue  # a smaller change of that option is enough
        plan = _plan(config, stored, options, work, memory, changes)
        if plan is not None and plan.fits and plan.rooms:
            found.append(f"{text} ({gigabytes(max(room.needed for room in plan.rooms))})")
    return found


def _changes(options: LoadOptions, work: Workload, memory: float | None) -> Iterator[dict[str, str | int]]:
    """What may help, the smaller change of an option first."""
    if options.precision in (None, "32-true"):
        yield {"precision": "bf16-true"}
    if options.quantize is None:
        yield {"quantize": "bnb.nf4"}
        yield {"quantize": "bnb.nf4-dq"}
    if str(options.devices).isdecimal():
        most = 8 if memory is not None else torch.cuda.device_count()
        for count in range(int(options.devices) + 1, most + 1):
            yield {"devices": count}
    slots = 1 << (work.slots - 1).bit_length()
    while (slots := slots // 2) > max(256, LEAST.slots):
        yield {"context_length": slots}


def _plan(
    config: Config,
    stored: Scheme | None,
    options: LoadOptions,
    work: Workload,
    memory: float | None,
    changes: dict[str, str | int],
) -> Plan | None:
    slots = int(changes.get("context_length", work.slots))
    smaller = replace(work, prompt_tokens=min(work.prompt_tokens, slots - 1), slots=min(work.slots, slots))
    try:
        # mypy cannot see that names and values belong together
        return make_plan(config, stored, replace(options, **changes), smaller, memory)  # type: ignore[arg-type]
    except InputError:
        return None

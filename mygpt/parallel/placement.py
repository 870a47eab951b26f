"""Placements: which devices run a model, and how they share the work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from mygpt.checkpoint.fill import Weight, fill, put_whole
from mygpt.errors import InputError
from mygpt.model.config import Config
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.collectives import Collectives
from mygpt.parallel.devices import free_bytes, mover, pick_devices
from mygpt.parallel.launch import RankGroup, launch, make_shared_memory_group
from mygpt.parallel.sequential import USABLE, SequentialGPT, partition
from mygpt.parallel.tensor import ModelShard, check_divisible, device_counts

Stream = Iterable[tuple[str, Weight]]


@dataclass(frozen=True)
class Placement:
    """The devices of this process, and the ranks that it shares the model with.

    Attributes:
        strategy: None (one device), "sequential", "tensor" or "fsdp".
        devices: of this process, in the order of the layers.
        names: of the devices of all ranks.
        ranks: the processes that run the model; None for one process.
        cpu_offload: the weights stay in host memory until they are needed (fsdp).
    """

    strategy: str | None
    devices: tuple[torch.device, ...]
    names: tuple[str, ...]
    ranks: RankGroup | None = None
    cpu_offload: bool = False

    def fill(self, model: GPT, tensors: Stream, precision: str, source: str) -> None:
        """Reduce a model on the meta device to this process's part, and fill it from whole tensors.

        Raises:
            InputError: the model cannot be divided so, or does not fit; the tensors are not the model's.
        """
        device = self.devices[0]
        if isinstance(model, SequentialGPT):
            model.split(
                self.devices,
                partition(model, self.devices, [USABLE * free_bytes(device) for device in self.devices]),
            )
            fill(model, tensors, mover(model.device_of, precision), source)
            return
        put = put_whole
        if self.ranks is not None and self.strategy == "tensor":
            collectives = Collectives(make_shared_memory_group(self.ranks))
            shard = ModelShard(model, self.ranks.rank, self.ranks.world_size, collectives)
            tensors = shard.shard_weights(tensors)
        elif self.ranks is not None:
            from mygpt.parallel import fsdp  # DTensor is slow to import

            fsdp.shard(model, self.ranks.mesh, device, cpu_offload=self.cpu_offload)
            put = fsdp.put_share
        fill(model, tensors, mover(lambda name: device, precision), source, put)
        model.context_builder.to(device)


def choose_placement(config: Config, options: LoadOptions, checkpoint: str | None = None) -> Placement:
    """The placement that the options ask for. Starts the ranks, where it has several: they load `checkpoint`.

    Raises:
        InputError: there are no such devices, or the model cannot be divided over them.
    """
    devices = pick_devices(options.accelerator, options.devices)
    count = len(devices) * options.num_nodes
    strategy = choose_strategy(config, options, count)
    if strategy is None:
        return Placement(None, (devices[0],), (str(devices[0]),))
    names = tuple(f"{devices[0].type}:{number}" for number in range(count))
    if strategy == "sequential":
        devices = devices[: config.n_layers]  # of `auto`
        names = names[: len(devices)] if devices[0].index is None else tuple(map(str, devices))
        return Placement(strategy, tuple(devices), names)
    if strategy == "tensor":
        check_divisible(config, count)
    task = {"checkpoint": checkpoint, "options": vars(options)}
    ranks = launch(devices[0].type, len(devices), options.num_nodes, task)
    return Placement(strategy, (ranks.device,), names, ranks, options.cpu_offload)


def choose_strategy(config: Config, options: LoadOptions, count: int) -> str | None:
    """The strategy by which `count` devices share the model; None for one device.

    Raises:
        InputError: the options exclude each other, or there are fewer layers than devices.
    """
    listed = isinstance(options.devices, str) and "," in options.devices
    if options.strategy == "auto":
        divides = count in device_counts(config, count)
        strategy = "sequential" if listed or not divides else "tensor"
    else:
        strategy = options.strategy or "sequential"
    if strategy != "sequential" and listed:
        raise InputError(
            f"--devices {options.devices}: only layers in turn can be put on a list; give a number"
        )
    if options.num_nodes > 1 and strategy == "sequential":
        why = "" if options.strategy == "sequential" else ", and nothing else divides the model"
        raise InputError(f"--num_nodes {options.num_nodes}: layers in turn stay on one machine{why}; use 1")
    if strategy == "sequential" and count > config.n_layers and options.devices != "auto":
        raise InputError(
            f"--devices {options.devices}: the model has {config.n_layers} layers to share out; use at most "
            f"{config.n_layers} devices"
        )
    return strategy if count > 1 else None

"""Will it fit? Counts the bytes of a model on each device with the code of the commands, without weights.

The model is built on the meta device, where tensors have sizes and no data. There it is cast, quantized, partitioned
and sharded as it would be while loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.json_files import read_json
from mygpt.loading.build import empty_model, pick_scheme
from mygpt.loading.room import DevicePlan, Room, find_rooms
from mygpt.loading.workspace import Workload, logits_bytes, mapped_names, read_bytes, workspace_bytes
from mygpt.model.config import Config
from mygpt.model.gpt import GPT
from mygpt.options import LoadOptions
from mygpt.parallel.devices import DTYPES, free_bytes, pick_devices
from mygpt.parallel.placement import choose_strategy
from mygpt.parallel.sequential import USABLE, SequentialGPT, named_bytes, partition
from mygpt.parallel.tensor import ModelShard, check_divisible, device_counts
from mygpt.quantize.linear import quantize_linears
from mygpt.quantize.schemes import PackedScheme, Scheme, stored_scheme

COPIES = 2  # of the largest weight, that a process has in host memory while it loads: mapped, and cast


@dataclass(frozen=True)
class Plan:
    """A model on its devices.

    Attributes:
        strategy: None for one.
        host_peak_bytes: the most that the processes of one machine hold in its memory.
        rooms: what is needed and free of each memory; None where that is not known.
        device_counts: by how many devices tensor parallelism divides the model.
    """

    strategy: str | None
    precision: str
    quantize: str | None
    devices: tuple[DevicePlan, ...]
    host_peak_bytes: int
    rooms: tuple[Room, ...] | None
    device_counts: tuple[int, ...]

    @property
    def fits(self) -> bool | None:
        """Whether each memory has room; None where that is not known."""
        return None if self.rooms is None else all(room.fits for room in self.rooms)

    @property
    def largest_bytes(self) -> int:
        """Of the fullest device."""
        return max(device.total_bytes for device in self.devices)

    def tokens_per_s(self, bandwidth: float, rows: int) -> float:
        """The most tokens a second that devices allow that read `bandwidth` bytes a second each: the roofline."""
        reads = [device.read_bytes for device in self.devices]
        return rows * bandwidth / (sum(reads) if self.strategy == "sequential" else max(reads))


def read_architecture(path: Path) -> tuple[Config, Scheme | None]:
    """What a `config.json`, or the header of a GGUF file, says: the model, and how its weights are stored.

    Raises:
        InputError: it is missing or broken, or the model is not supported.
    """
    if path.suffix.lower() == ".gguf":
        from mygpt.checkpoint.open import open_checkpoint

        raw = open_checkpoint(path).config
    else:
        raw = read_json(path)
    return read_config(raw, str(path))[1], stored_scheme(raw, str(path))


def make_plan(
    config: Config,
    stored: Scheme | None,
    options: LoadOptions,
    work: Workload,
    memory: float | None = None,
    *,
    file_dtype: torch.dtype | None = None,
    all_devices: bool = True,
) -> Plan:
    """What `options` make of a model under a workload.

    Args:
        config: the model.
        stored: how its weights are stored.
        options: as the commands'; `strategy` is never None. With the accelerator `auto`, this machine's, or GPUs
            where `memory` says that the devices are others.
        work: what is asked of it.
        memory: bytes of each device; by default those that this machine has free now.
        file_dtype: of the weights where a CPU can use them as they lie in the file; None where all are copied.
        all_devices: as of `find_rooms`.

    Raises:
        InputError: the model cannot be shared out over the devices.
    """
    devices = planned_devices(options, foreign=memory is not None)
    count = len(devices) * options.num_nodes
    strategy = choose_strategy(config, options, count)
    scheme = pick_scheme(stored, "config.json", options.quantize, strategy, devices[0])
    absent = devices[0].type == "cuda" and not torch.cuda.is_available()
    precision = options.precision or ("bf16-true" if absent else None)
    kept = scheme is not None and scheme is stored
    planner = _Planner(config, work, precision, scheme, devices, options.num_nodes, file_dtype, stored=kept)
    if strategy is None:
        shares = planner.single()
    elif strategy == "sequential":
        shares = planner.sequential([memory or _usable(device) for device in devices])
    elif strategy == "tensor":
        shares = planner.tensor(count)
    else:
        shares = planner.fsdp(count, cpu_offload=options.cpu_offload)
    rooms = find_rooms(shares, devices, memory, all_devices=all_devices or strategy == "sequential")
    return Plan(
        strategy,
        planner.precision,
        scheme.name if scheme else None,
        tuple(shares),
        planner.host_peak(shares, strategy),
        None if rooms is None else tuple(rooms),
        tuple(device_counts(config)),
    )


def planned_devices(options: LoadOptions, *, foreign: bool) -> list[torch.device]:
    """The devices of the options, which this machine need not have."""
    text = str(options.devices)
    if text != "auto" and not text.isdecimal():
        try:
            return [torch.device(name) for name in text.split(",")]
        except RuntimeError as error:
            raise InputError(f"--devices {text}: not all are devices; write such as cuda:0,cpu") from error
    kind = options.accelerator
    if kind == "auto":
        kind = "cuda" if foreign else pick_devices("auto", 1)[0].type
    if kind == "gpu":
        kind = "mps" if torch.backends.mps.is_available() else "cuda"
    count = int(text) if text != "auto" else torch.cuda.device_count() if kind == "cuda" else 1
    if count <= 1 and kind != "cuda":
        return [torch.device(kind)]
    return [torch.device(kind, number) for number in range(max(1, count))]


def _usable(device: torch.device) -> float:
    """As when the model is loaded; infinite where it is not known."""
    present = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    return USABLE * free_bytes(device) if present else float("inf")


class _Planner:
    """The shares of each placement."""

    def __init__(
        self,
        config: Config,
        work: Workload,
        precision: str | None,
        scheme: PackedScheme | None,
        devices: Sequence[torch.device],
        num_nodes: int,
        file_dtype: torch.dtype | None,
        *,
        stored: bool,
    ) -> None:
        self.file_dtype, self.stored = file_dtype, stored
        self.config, self.work, self.scheme = config, work, scheme
        self.devices, self.num_nodes, self.kind = devices, num_nodes, devices[0].type
        model, self.precision = empty_model(config, None, precision, devices[0], quantized=scheme is not None)
        self.largest_weight = max(parameter.nbytes for parameter in model.parameters())
        self.itemsize = DTYPES[self.precision].itemsize

    def model(self, strategy: str | None = None, rank: int = 0, world_size: int = 1) -> GPT:
        """The model on the meta device, or a rank's shard of it."""
        model, _ = empty_model(self.config, strategy, self.precision, self.devices[0])
        if self.scheme is not None:
            quantize_linears(model, self.scheme, DTYPES[self.precision])
        if world_size > 1:
            ModelShard(model, rank, world_size)
        return model

    def single(self) -> list[DevicePlan]:
        """All on one device."""
        return [self._whole(self.model(), self._name(0), has_logits=True)]

    def tensor(self, world_size: int) -> list[DevicePlan]:
        """A shard on each: the first has the logits, the last perhaps less of the vocabulary, the others are equal."""
        check_divisible(self.config, world_size)
        last = world_size - 1
        shares = {
            rank: self._whole(self.model(None, rank, world_size), "", has_logits=rank == 0)
            for rank in {0, min(1, last), last}
        }
        return [
            replace(shares.get(rank, shares[min(1, last)]), device=self._name(rank))
            for rank in range(world_size)
        ]

    def sequential(self, memory: list[float]) -> list[DevicePlan]:
        """Some layers on each; devices that get none are left out, as they are by the command."""
        model = self.model("sequential")
        assert isinstance(model, SequentialGPT)
        try:
            counts = partition(model, self.devices, memory)
        except InputError:  # it does not fit, which the plan is to say
            counts = partition(model, self.devices, [float("inf")] * len(memory))
        places = [torch.device("meta", number) for number in range(len(self.devices))]
        model.split(places, counts)
        cached, once = self._cached(model)
        shares = []
        for part in model.parts:
            number = places.index(part.device)
            kind = self.devices[number].type
            sizes = {
                name: size for name, size in named_bytes(model, kind) if model.device_of(name) == part.device
            }
            layers = [model.layers[i] for i in part.layers]
            workspace = workspace_bytes(layers, self.config, self.work, self.itemsize, kind)
            if model.device_of("head.") == part.device:
                workspace += logits_bytes(self.config, self.work, self.itemsize)
            workspace += sum(once[i] for i in part.layers)
            kv_cache = sum(cached[i] for i in part.layers)
            mapped = self._mapped(model, sizes) if kind == "cpu" else 0
            shares.append(self._share(self._name(number), sizes, kv_cache, workspace, mapped))
        return shares

    def fsdp(self, world_size: int, *, cpu_offload: bool) -> list[DevicePlan]:
        """An equal share of each weight, and what is gathered.

        That is the embedding, head and last norm, which stay, and of a layer the weights, the buffer that they came
        in and the buffer of the next one. Offloaded shares come to the device with their layer.
        """
        model = self.model()
        sizes = dict(named_bytes(model, self.kind))
        shares = {
            name: -(-len(parameter) // world_size) * (parameter.nbytes // len(parameter))
            for name, parameter in model.named_parameters()
        }
        layers = [0] * self.config.n_layers
        for name, size in sizes.items():
            if name.startswith("layers."):
                layers[int(name.split(".")[1])] += size
        root = sum(sizes.values()) - sum(layers)
        gathered = root + max(root, 3 * max(layers))
        if cpu_offload:
            gathered += -(-(root + 2 * max(layers)) // world_size)
        whole = self._whole(model, "", has_logits=True)
        share = sum(shares.values())
        return [
            replace(
                whole,
                device=self._name(rank),
                mapped_bytes=0,
                weights_bytes=0 if cpu_offload else share,
                workspace_bytes=whole.workspace_bytes + gathered,
                offloaded_bytes=share if cpu_offload else 0,
            )
            for rank in range(world_size)
        ]

    def host_peak(self, shares: Sequence[DevicePlan], strategy: str | None) -> int:
        """What lies in one machine's memory, and what each process there has of the file while it loads."""
        of_one = shares[: len(self.devices)]
        held = sum(share.total_bytes for share in of_one if torch.device(share.device).type == "cpu")
        offloaded = sum(share.offloaded_bytes for share in of_one)
        processes = len(of_one) if strategy in ("tensor", "fsdp") else 1
        return held + offloaded + processes * COPIES * self.largest_weight

    def _name(self, number: int) -> str:
        return str(self.devices[number]) if self.num_nodes == 1 else f"{self.kind}:{number}"

    def _cached(self, model: GPT) -> tuple[list[int], list[int]]:
        """Bytes of each layer's cache, and of that in which a prompt of several samples is computed once."""
        work = self.work
        cache = model.allocate_cache(work.rows, work.slots)
        small = cache.empty_like(work.batch_size if work.num_samples > 1 else 0, work.prompt_tokens)
        return [layer.nbytes for layer in cache.layers], [layer.nbytes for layer in small.layers]

    def _whole(self, model: GPT, name: str, *, has_logits: bool) -> DevicePlan:
        workspace = workspace_bytes(list(model.layers), self.config, self.work, self.itemsize, self.kind)
        if has_logits:
            workspace += logits_bytes(self.config, self.work, self.itemsize)
        cached, once = self._cached(model)
        sizes = dict(named_bytes(model, self.kind))
        mapped = self._mapped(model, sizes) if self.kind == "cpu" else 0
        return self._share(name, sizes, sum(cached), workspace + sum(once), mapped)

    def _mapped(self, model: GPT, sizes: dict[str, int]) -> int:
        names = mapped_names(model, self.file_dtype, stored=self.stored)
        return sum(size for name, size in sizes.items() if name in names)

    def _share(
        self, name: str, sizes: dict[str, int], kv_cache: int, workspace: int, mapped: int
    ) -> DevicePlan:
        read = read_bytes(sizes, self.config, self.work.rows) + kv_cache
        return DevicePlan(name, sum(sizes.values()), kv_cache, workspace, read, mapped_bytes=mapped)

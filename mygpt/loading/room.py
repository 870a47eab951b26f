"""What a plan needs of each device's memory, or of the machine's, and what is free there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mygpt.parallel.devices import free_bytes
from mygpt.parallel.host_memory import free_host_bytes


@dataclass(frozen=True)
class DevicePlan:
    """What one device holds, in bytes.

    `weights_bytes` are exact, `kv_cache_bytes` too; `workspace_bytes` are an estimate from above of what a forward
    pass takes, layers gathered by fsdp with it. `read_bytes` are what a step of decoding reads, `offloaded_bytes` the
    weights that wait in host memory. `mapped_bytes` are those of a CPU's weights that stay in the file: the system
    drops them where memory is short, and reads them again.
    """

    device: str
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    read_bytes: float
    offloaded_bytes: int = 0
    mapped_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All together."""
        return self.weights_bytes + self.kv_cache_bytes + self.workspace_bytes


@dataclass(frozen=True)
class Room:
    """Bytes that are needed of one memory, how many of them cannot stay in a file, and how many are free."""

    name: str  # cuda:0, or cpu for the machine's memory
    needed: int
    held: int
    free: float

    @property
    def fits(self) -> bool:
        """Whether all that is needed is free."""
        return self.needed <= self.free


def find_rooms(
    shares: Sequence[DevicePlan], devices: Sequence[torch.device], memory: float | None, *, all_devices: bool
) -> list[Room] | None:
    """The rooms of one machine's shares, None where the free memory of one is not known.

    Args:
        shares: of the devices, in their order.
        devices: of one machine.
        memory: bytes of each device; by default those that are free now.
        all_devices: whether to ask more than the first GPU: a process that does takes some memory of each.
    """
    shares = shares[: len(devices)]
    if memory is not None:
        return [Room(share.device, share.total_bytes, share.total_bytes, memory) for share in shares]
    rooms = []
    for share in shares if all_devices else shares[:1]:
        device = torch.device(share.device)
        if device.type == "cpu":
            continue
        if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
            return None
        rooms.append(Room(share.device, share.total_bytes, share.total_bytes, free_bytes(device)))
    on_host = [share for share in shares if torch.device(share.device).type == "cpu"]
    offloaded = sum(share.offloaded_bytes for share in shares)
    if not on_host and not offloaded:
        return rooms
    free = free_host_bytes()
    if free is None:
        return None
    needed = offloaded + sum(share.total_bytes for share in on_host)
    return [*rooms, Room("cpu", needed, needed - sum(share.mapped_bytes for share in on_host), free)]

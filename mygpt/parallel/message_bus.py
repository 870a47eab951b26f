"""Messages from rank 0 to all workers: JSON, by one broadcast between their hosts."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist

from mygpt.parallel.launch import RankGroup

FIRST_BROADCAST = 8192  # bytes; a longer message takes a second broadcast
_LENGTH = 8  # bytes, before the text


class MessageBus:
    """Rank 0 calls `send` while every worker is in `receive`."""

    def __init__(self, ranks: RankGroup) -> None:
        self.ranks = ranks

    def send(self, *message: Any) -> None:
        """Send one message to all workers; its parts must be JSON values."""
        text = json.dumps(message).encode()
        data = torch.frombuffer(bytearray(len(text).to_bytes(_LENGTH, "little") + text), dtype=torch.uint8)
        first = torch.zeros(FIRST_BROADCAST, dtype=torch.uint8)
        first[: len(data)] = data[:FIRST_BROADCAST]
        self._broadcast(first)
        if len(data) > FIRST_BROADCAST:
            self._broadcast(data)

    def receive(self) -> list[Any]:
        """Wait for the next message, and return its parts."""
        data = torch.zeros(FIRST_BROADCAST, dtype=torch.uint8)
        self._broadcast(data)
        end = _LENGTH + int.from_bytes(bytes(data[:_LENGTH].tolist()), "little")
        if end > FIRST_BROADCAST:
            data = torch.zeros(end, dtype=torch.uint8)
            self._broadcast(data)
        message: list[Any] = json.loads(data[_LENGTH:end].numpy().tobytes())
        return message

    def _broadcast(self, data: torch.Tensor) -> None:
        dist.broadcast(data, 0, group=self.ranks.control)

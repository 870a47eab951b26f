"""What to plan for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mygpt.errors import InputError
from mygpt.options.checks import MOST_SAMPLES, check_choice, require


@dataclass(frozen=True)
class PlanOptions:
    """What to plan for.

    Args:
        command: The command to plan for.
        prompt_tokens: Tokens of a prompt.
        max_new_tokens: Tokens of an answer; by default 1024, the most that a chat model answers with. A chat
            counts as one that has filled its context.
        batch_size: Prompts that run together.
        num_samples: Answers to each prompt.
        device_memory: The memory of each device, as 24GB (or 24G) or 24GiB; by default what is free on this machine's.
        bandwidth: How fast a device reads its memory; adds the most tokens per second that this allows.
        compare: Print a table of all commands by 1, 2, 4, 5 and 8 devices and by quantization.
        json: Print one JSON object instead of a table.
    """

    command: str = "generate"
    prompt_tokens: int = 64
    max_new_tokens: int | None = None
    batch_size: int = 1
    num_samples: int = 1
    device_memory: str | None = None
    bandwidth: float | None = None
    compare: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        check_choice("command", self.command)
        require(self, "prompt_tokens", self.prompt_tokens >= 1, "1 or above")
        require(self, "num_samples", 1 <= self.num_samples <= MOST_SAMPLES, f"between 1 and {MOST_SAMPLES}")
        most = MOST_SAMPLES // self.num_samples  # all of them are planned, one by one
        require(self, "batch_size", 1 <= self.batch_size <= most, f"between 1 and {most}")
        require(self, "max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "1 or above")
        require(self, "bandwidth", self.bandwidth is None or self.bandwidth > 0, "above 0")

    @property
    def memory_bytes(self) -> float | None:
        """`device_memory` in bytes.

        Raises:
            InputError: it is not a size.
        """
        if self.device_memory is None:
            return None
        size = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([MGT])(I?)B?", self.device_memory.upper())
        if size is None or not float(size[1]):
            raise InputError(
                f"--device_memory must be a size such as 40GB or 24GiB, it is {self.device_memory!r}"
            )
        unit = 1024.0 if size[3] else 1000.0
        return float(size[1]) * math.pow(unit, {"M": 2, "G": 3, "T": 4}[size[2]])

"""A program that is compared with, in a process of its own, which waits while the others run."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any


class Peer:
    """Runs a `peer_*.py`, which says first what it is, then answers each order: JSON lines both ways."""

    def __init__(self, command: Sequence[object]) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._read()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """One generation."""
        assert self.process.stdin
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with code {self.process.wait()}")
        content: dict[str, Any] = json.loads(line)
        return content

"""Ranks that are all on one machine listen on no address that other machines reach."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.parallel.conftest import Start, group

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
LISTENS = "0A"


def listening(processes: list[int]) -> set[tuple[int, str]]:
    """The addresses that processes listen on, as /proc/net/tcp writes them."""
    owners = {}
    for process in processes:
        for number in Path(f"/proc/{process}/fd").glob("*"):
            try:
                owners[str(number.readlink())] = process
            except OSError:  # closed meanwhile
                continue
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            _, local, _, state, *rest = line.split()
            if state == LISTENS and f"socket:[{rest[5]}]" in owners:
                found.add((owners[f"socket:[{rest[5]}]"], local.partition(":")[0]))
    return found


@pytest.mark.parametrize(
    "command", [["generate_tp"], pytest.param(["generate", "--strategy", "fsdp"], marks=pytest.mark.full)]
)
def test_ranks_listen_on_loopback_alone(start: Start, small: Path, command: list[str]) -> None:
    """From the first moment to the answer: where they meet, and where they connect to each other."""
    name, *options = command
    process = start(
        *(name, small, *options, "--devices", 2, "--accelerator", "cpu", "--prompt", "Hi"),
        *("--max_new_tokens", 300, "--temperature", 0),
        MASTER_ADDR=socket.gethostname(),  # as a cluster's shell has it
    )
    found: set[tuple[int, str]] = set()
    os.set_blocking(process.stdout.fileno(), False)
    while process.poll() is None and not process.stdout.read(1):
        found |= listening(group(process.pid))
    os.set_blocking(process.stdout.fileno(), True)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert len({owner for owner, _ in found}) == 2
    assert {address for _, address in found} <= LOOPBACK


def test_a_port_in_use(start: Start, small: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        asked = ["generate_tp", small, "--devices", 2, "--accelerator", "cpu", "--prompt", "Hi"]
        process = start(*asked, MASTER_PORT=port)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error == f"error: cannot listen on 127.0.0.1:{port} (Address already in use): unset MASTER_PORT\n"

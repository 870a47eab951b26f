"""What ranks say to each other, and to the user where one of them is lost; without starting any."""

import os
import signal
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mygpt.errors import RunError
from mygpt.kernels import LostRankError
from mygpt.parallel import rank_env, supervisor
from mygpt.parallel.message_bus import FIRST_BROADCAST, MessageBus
from mygpt.parallel.supervisor import Supervisor


@pytest.mark.parametrize("length", [0, FIRST_BROADCAST - 20, FIRST_BROADCAST, 3 * FIRST_BROADCAST])
def test_a_message_of_any_length(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Both ends in this process; a broadcast must be of the size that the other end waits for."""
    sent: deque[torch.Tensor] = deque()

    def broadcast(data: torch.Tensor, source: int, group: Any) -> None:
        if sending:
            sent.append(data.clone())
        else:
            data.copy_(sent.popleft())

    monkeypatch.setattr(dist, "broadcast", broadcast)
    ranks: Any = SimpleNamespace(control=None)
    bus, sending = MessageBus(ranks), True
    for message in (["forward", "\N{PILE OF POO}" * 2, "x" * length], ["end"]):
        bus.send(*message)
        sending = False
        assert bus.receive() == message
        sending = True
    assert not sent


class Exited(BaseException):
    """What `os._exit` is told."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.usefixtures("exits")
@pytest.mark.parametrize(
    ("local", "node", "says"),
    [
        ("1", "0", "error: rank 0 was killed; the other ranks were ended\n"),
        ("1", "2", "error: the first rank of node 2 was killed; the other ranks were ended\n"),
        ("2", "0", ""),  # one of several tells it
    ],
)
def test_a_worker_whose_parent_has_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], local: str, node: str, says: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setenv("NODE_RANK", node)
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(Exited, match="1"):
        rank_env._end_with_parent(7)
    assert capsys.readouterr().err == says


@pytest.mark.usefixtures("exits")
@pytest.mark.parametrize(
    ("code", "ours", "says"),
    [
        (-signal.SIGINT, 130, ""),
        (130, 130, ""),
        (2, 2, ""),  # it has told why
        (3, 1, ""),
        (
            -signal.SIGKILL,
            1,
            "error: rank 4 was killed by SIGKILL (as the system does when memory runs out);",
        ),
        (-signal.SIGSEGV, 1, "error: rank 4 was killed by SIGSEGV; the other ranks were ended"),
    ],
)
def test_how_a_rank_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, ours: int, says: str
) -> None:
    """The others are ended with it."""
    monkeypatch.setenv(rank_env.PARENT_PID_VARIABLE, "")  # which a Supervisor sets, and is to be as it was
    ended: list[int] = []
    children: Any = [
        SimpleNamespace(poll=lambda: None, kill=lambda: ended.append(3)),
        SimpleNamespace(poll=lambda: code, returncode=code, kill=lambda: ended.append(4)),
    ]
    watching = Supervisor(2, children)
    watching.starting = False
    with pytest.raises(Exited, match=str(ours)):
        watching.run()
    assert ended == [3, 4]
    err = capsys.readouterr().err
    assert err.startswith(says) and err.count("\n") == bool(says)


@pytest.mark.parametrize(
    "error",
    [dist.DistNetworkError("reset"), LostRankError(), RuntimeError("[gloo/transport/pair.cc:1] closed")],
)
def test_a_lost_connection_is_one_line(monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    monkeypatch.setattr(supervisor, "REPORT_DELAY_S", 0.0)
    monkeypatch.setenv(rank_env.PARENT_PID_VARIABLE, "")
    monkeypatch.setenv("RANK", "3")
    with (
        pytest.raises(
            RunError, match="rank 3 lost the connection to another rank; that one's own output says why"
        ),
        Supervisor(2, []).explain_lost_connection(),
    ):
        raise error
    with pytest.raises(RuntimeError, match=r"^of another kind$"), Supervisor(2, []).explain_lost_connection():
        raise RuntimeError("of another kind")

"""What the choice of devices and of precisions makes of a machine, which is pretended: its GPUs are not here."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mygpt.errors import InputError
from mygpt.parallel import devices
from mygpt.parallel.devices import peak_memory_bytes, pick_devices, pick_precision

CUDA, MPS, CPU = torch.device("cuda"), torch.device("mps"), torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_the_gpus_of_a_machine() -> None:
    assert pick_devices("auto", "auto") == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert pick_devices("cuda", 1) == [torch.device("cuda", 0)]
    assert pick_devices("auto", "cuda:1, cpu") == [torch.device("cuda", 1), CPU]
    assert pick_devices("cpu", "3") == [CPU] * 3
    with pytest.raises(InputError, match=r"--devices 3: this machine has only 2 of cuda; ask for fewer"):
        pick_devices("auto", 3)
    with pytest.raises(InputError, match=r"there is no cuda:2 here, this machine has only 2 of cuda"):
        pick_devices("auto", "cuda:0,cuda:2")


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-true"), (False, "16-true")])
def test_a_gpu_computes_in_16_bits(monkeypatch: pytest.MonkeyPatch, native: bool, precision: str) -> None:
    """In bfloat16 where it has instructions for it: emulated, it is slow."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert pick_precision(None, CUDA, nn.Linear(2, 2)) == precision
    assert pick_precision("32-true", CUDA, nn.Linear(2, 2)) == "32-true"
    assert pick_precision(None, MPS, nn.Linear(2, 2)) == "16-true"


@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024)])
def test_the_peak_memory_where_there_is_no_proc(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    resource = pytest.importorskip("resource", reason="Windows has none")
    monkeypatch.setattr(devices, "Path", lambda name: Path("/nowhere"))
    monkeypatch.setattr(sys, "platform", system)
    found = peak_memory_bytes(CPU)
    assert found <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit <= 2 * found


def test_the_peak_memory_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    assert peak_memory_bytes(CUDA) == 5
    monkeypatch.setattr(sys, "platform", "win32")
    assert peak_memory_bytes(CPU) == 0

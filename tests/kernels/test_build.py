"""The kernels are compiled once for each level; where there are none, it is said why, and all runs without."""

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mygpt.errors import InputError
from mygpt.kernels import jobs, plain
from mygpt.kernels.cpu import isa, library, structs
from mygpt.kernels.cpu.build import NoKernelsError, build
from mygpt.kernels.cpu.library import Library
from mygpt.parallel.devices import pick_precision
from tests.kernels.conftest import LEVELS

NAMES = {"avx2": "avx2", "avx512": "avx512", "amx": "avx512+amx", "native": "native"}
BUILD = "from mygpt import kernels; assert kernels.prepare()"
COMPILED = library.load(LEVELS[-1])[0].c._name if LEVELS else ""
needs_kernels = pytest.mark.skipif(not LEVELS, reason="no C compiler, or not Linux")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of compiled kernels."""
    monkeypatch.setenv("MYGPT_CACHE", str(tmp_path))
    for name in ("MYGPT_KERNELS", "MYGPT_ISA"):
        monkeypatch.delenv(name, raising=False)
    forget()
    yield tmp_path / "kernels"
    monkeypatch.undo()
    forget()


def forget() -> None:
    isa.level.cache_clear()
    library.load.cache_clear()


def test_levels_have_their_names(kernels: Library) -> None:
    level = isa.level()
    assert library.describe() == kernels.name == NAMES[level]
    assert kernels.has_tiles <= (level in ("avx512", "amx"))


@pytest.mark.parametrize("level", ["none", *isa.machine_levels()])
def test_a_level_by_the_environment(fresh: Path, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", level)
    assert isa.level() == level
    monkeypatch.delenv("MYGPT_ISA")
    assert isa.level() == level  # found once
    forget()
    assert isa.level() == (isa.machine_levels() or ["native"])[-1]


@pytest.mark.parametrize("level", ["avx1024", "AVX2"])
def test_an_unknown_level_is_refused(fresh: Path, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", level)
    with pytest.raises(InputError, match=f"MYGPT_ISA={level} is not a level of this machine; it has .*none"):
        library.describe()


def test_a_level_that_the_machine_lacks_is_refused(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isa, "machine_levels", lambda: ["avx2"])
    monkeypatch.setenv("MYGPT_ISA", "avx512")
    with pytest.raises(
        InputError, match="MYGPT_ISA=avx512 is not a level of this machine; it has avx2, none"
    ):
        isa.level()


def test_torch_is_held_too(hold: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of that level, bfloat16 is what a large model runs in or not."""
    monkeypatch.setattr("mygpt.parallel.devices.SMALL_MODEL", 0)
    model, device = torch.nn.Linear(2, 2), torch.device("cpu")
    hold("avx2")
    assert pick_precision(None, device, model) == "32-true"
    assert not isa.allows("avx512")
    hold("avx512")
    assert isa.allows("avx512")
    assert not isa.allows("amx")
    monkeypatch.setattr(isa, "level", lambda: "none")
    assert isa.allows("amx")


def test_variables_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    code = (
        "import os, torch, mygpt.kernels\n"
        "print(torch.backends.cpu.get_cpu_capability(), os.environ['ONEDNN_MAX_CPU_ISA'])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    capability, onednn = run.stdout.split()
    assert "AVX512" not in capability
    assert onednn == "ALL"  # the user's own


@pytest.mark.parametrize(
    ("compiler", "path", "reason"),
    [
        ("/no/such/compiler", "/nowhere", "none: no C compiler"),
        ("false", "/usr/bin:/bin", "none: false failed"),
    ],
)
def test_without_a_compiler(
    fresh: Path, compiler: str, path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("PATH", path)
    assert library.active() is None
    assert library.describe() == reason
    x, weight = torch.randn(1, 16), torch.randn(3, 16)
    assert torch.equal(jobs.linear(x, weight), plain.linear(x, weight))
    assert not list(fresh.glob("*"))


def test_turned_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYGPT_ISA", "none")
    assert library.active() is None
    assert library.describe() == "none: MYGPT_ISA=none"


def test_elsewhere(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert library.describe() == "none: not Linux"


@needs_kernels
def test_without_a_folder_to_write(fresh: Path) -> None:
    fresh.write_text("a file, no folder")
    assert library.active() is None
    assert library.describe().startswith("none: ")
    assert str(fresh) in library.describe()


@pytest.fixture
def compiler(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that takes a moment: it copies what the real one has made."""
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\nsleep 0.3\nwhile [ "$1" != -o ]; do shift; done\ncp "{COMPILED}" "$2"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))


@needs_kernels
def test_a_broken_library_is_made_anew(
    fresh: Path, compiler: None, capfd: pytest.CaptureFixture[str]
) -> None:
    made = build(LEVELS[-1], lambda path: path)
    size = made.stat().st_size
    made.write_bytes(b"half a library")
    assert library.active() is not None
    assert made.stat().st_size == size
    assert capfd.readouterr().err == ""  # no terminal


@needs_kernels
def test_processes_may_build_at_the_same_time(fresh: Path, compiler: None) -> None:
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(subprocess.run, [sys.executable, "-c", BUILD], check=True) for _ in range(2)]
    assert all(run.result().returncode == 0 for run in runs)
    assert [path.suffix for path in fresh.glob("*")] == [".so"]


@needs_kernels
@pytest.mark.parametrize("name", ["Matrix", "AttentionArgs", "FOURBIT", "no such name"])
def test_structs_that_differ_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that only one side has would otherwise be read as another."""
    longer = {**structs.CONSTANTS, name: structs.CONSTANTS.get(name, 0) + ctypes.sizeof(ctypes.c_long)}
    monkeypatch.setattr(library, "CONSTANTS", longer)
    with pytest.raises(NoKernelsError, match=f"C and Python differ in {name}"):
        Library(Path(COMPILED), LEVELS[-1])

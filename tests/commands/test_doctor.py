"""`mygpt doctor`: complete, narrow, private, and never the one that fails."""

import copy
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from mygpt import kernels
from mygpt.__main__ import main
from mygpt.commands._doctor import bandwidth, machine, probes
from mygpt.commands._doctor.private import private
from mygpt.commands._doctor.remedies import problems
from mygpt.commands.doctor import text
from mygpt.hub import reach
from mygpt.hub.reach import HubCheck
from tests.fake_hub import FakeHub, serve
from tests.hub.caches import DEFAULT, Caches, write

SECTIONS = [
    "versions",
    "system",
    "cpu",
    "memory",
    "gpus",
    "kernels",
    "caches",
    "hub",
    "environment",
    "problems",
]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve() as fake:
        yield fake


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> Caches:
    """Caches of the test's own, a Hub that answers at once, and a quick measurement."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(bandwidth, "_SECONDS", 0)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    return Caches(tmp_path, monkeypatch)


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["doctor", "--json", "true"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def unknown(value: Any) -> list[str]:
    """The texts in a report that begin with `unknown`."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in unknown(part)]
    if isinstance(value, list):
        return [text for part in value for text in unknown(part)]
    return [value] if isinstance(value, str) and value.startswith("unknown") else []


def test_everything_is_found_here(place: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    write(place.own / "SmolLM2-135M-Instruct")
    found = report(capsys)
    assert list(found) == SECTIONS
    assert unknown(found) == []
    assert found["versions"]["mygpt"]
    assert found["cpu"]["cores"] == os.cpu_count()
    assert 0.1 < found["cpu"]["read_gb_per_s"] < 5000
    assert 0 < found["memory"]["free_bytes"] <= found["memory"]["total_bytes"]
    assert found["kernels"]["run"] == kernels.describe()
    assert found["caches"]["mygpt"]["writable"] is True
    assert found["caches"]["mygpt"]["size_bytes"] > 5000
    assert found["hub"]["answers"].startswith("yes")
    assert found["hub"]["token_is_set"] is False
    assert found["hub"]["default_model"] == "in mygpt's cache (from PyPI)"


def test_text_is_narrow_and_a_block_of_code(place: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.strip() for line in lines if line[:5].strip() and line[4] != " "] == SECTIONS
    assert all(line == "" or line.startswith("    ") for line in lines)
    folder = str(place.work.parent)  # a word that may be longer
    assert [line for line in lines if len(line) > 80 and folder not in line] == []
    assert out.isascii()


def test_long_values_go_on_below_their_beginning() -> None:
    lines = text({"cpu": {"name": "word " * 40, "cores": 2}}).splitlines()
    assert max(map(len, lines)) <= 80
    column = lines[1].index("word")
    assert lines[2].index("word") == column
    assert lines[-1].split() == ["cores", "2"]


def test_values_in_words() -> None:
    facts = {
        "total_bytes": 25_000_000_000,
        "read_gb_per_s": 17.26,
        "free_bytes": None,
        "mps": False,
        "cuda": [{"name": "GPU A", "total_bytes": 8_000_000_000}, {"name": "GPU B", "in_this_torch": True}],
        "nvidia": [],
    }
    shown = text({"memory": facts, "environment": {}, "problems": []})
    rows = [line.split(maxsplit=1) for line in shown.splitlines() if line]
    assert rows == [
        ["memory"],
        ["total", "25.0 GB"],
        ["read", "17.3 GB/s"],
        ["free", "none"],
        ["mps", "no"],
        ["cuda", "GPU A, total 8.0 GB"],
        ["GPU", "B, in this torch yes"],
        ["nvidia", "none"],
        ["environment"],
        ["none"],
        ["problems"],
        ["none", "found"],
    ]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (machine, "system"),
        (machine, "usable_cores"),
        (machine, "container_cores"),
        (machine, "total_memory"),
        (machine, "container_memory"),
        (machine, "nvidia"),
        (machine, "cpu_name"),
        (kernels, "describe"),
        (bandwidth, "cpu_bandwidth"),
        (probes, "cache_folder"),
        (probes, "hub_settings"),
        (probes, "default_model"),
        (probes, "folder_size"),
        (platform, "python_version"),
        (platform, "freedesktop_os_release"),
        (platform, "node"),
        (subprocess, "run"),
        (shutil, "which"),
        (shutil, "disk_usage"),
        (tempfile, "TemporaryFile"),
        (os, "sysconf"),
        (os, "cpu_count"),
        (Path, "read_text"),
        (Path, "is_file"),
        (Path, "home"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_no_probe_takes_the_others_with_it(
    place: Caches,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError(f"{name} does\nnot work")

    monkeypatch.setattr(owner, name, fail)
    monkeypatch.setattr(kernels.cpu.isa, "processor", lambda: [])
    assert main(["doctor"]) == 0
    out, _ = capsys.readouterr()
    assert [line.strip() for line in out.splitlines() if line[4:5].strip()] == SECTIONS
    assert f"{name} does not work" in " ".join(out.split()) or name in ("node", "home", "which", "is_file")


def test_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from mygpt.__main__ import main; sys.exit(main(['doctor']))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch cannot be imported" in " ".join(done.stdout.split())
    assert "pip install --force-reinstall torch" in done.stdout


def test_nothing_private(
    place: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setenv("LOGNAME", "lovelace")
    monkeypatch.setattr(platform, "node", lambda: "analytical-engine.example.org")
    monkeypatch.setattr(constants, "ENDPOINT", "http://ada:passw0rd@127.0.0.1:1")
    monkeypatch.setenv("HF_ENDPOINT", "http://ada:passw0rd@127.0.0.1:1")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cretS3cretS3cret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:passw0rd@proxy")
    monkeypatch.setenv("MYGPT_API_KEY", "passw0rd")
    monkeypatch.setenv("MYGPT_CACHE", str(tmp_path / "ada" / "cache"))
    monkeypatch.setenv("MYGPT_KERNELS", "/data/lovelace/analytical-engine/k")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = report(capsys)
    shown = json.dumps(found)
    for secret in (str(tmp_path / "ada"), "passw0rd", "hf_s3cret", "analytical-engine", "lovelace"):
        assert secret not in shown
    assert found["hub"]["token_is_set"] is True
    assert found["hub"]["endpoint"] == "http://127.0.0.1:1"
    variables = found["environment"]
    assert (
        variables["HF_TOKEN"] == variables["HTTPS_PROXY"] == variables["MYGPT_API_KEY"] == "set (not shown)"
    )
    assert variables["MYGPT_CACHE"] == "~/cache"
    assert variables["MYGPT_KERNELS"] == "/data/<user>/<host>/k"
    assert variables["OMP_NUM_THREADS"] == "3"


def test_a_short_home_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have `/` as home, and `/root` is not `/rootless`."""
    monkeypatch.setenv("LOGNAME", "root")
    monkeypatch.setenv("HOME", "/")
    assert private({"path": "/usr/lib"}) == {"path": "/usr/lib"}
    monkeypatch.setenv("HOME", "/root")
    assert private(["/root/x", "/rootless/x", "/x/root", "/root"]) == ["~/x", "/rootless/x", "/x/root", "~"]


class TestHub:
    def test_no_answer(self, place: Caches, capsys: pytest.CaptureFixture[str], hub: FakeHub) -> None:
        hub.broken_status = 503
        found = report(capsys)
        assert found["hub"]["answers"] == "no (status 503)"
        (problem,) = [found for found in found["problems"] if "does not answer" in found["problem"]]
        assert "PyPI" in problem["remedy"]

    def test_a_wrong_token(self, place: Caches, capsys: pytest.CaptureFixture[str], hub: FakeHub) -> None:
        hub.broken_status = 401
        assert any("refuses your token" in problem["problem"] for problem in report(capsys)["problems"])

    def test_nobody_there(self, place: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
        assert HubCheck().answer() == "no (ConnectError)"

    def test_one_that_is_silent(self, place: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setattr(reach, "TIMEOUT_S", 0.2)
            assert HubCheck().answer().startswith("no (")

    def test_a_name_that_takes_for_ever(self, place: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
        """Looking up a name has no time-out."""
        monkeypatch.setattr(HubCheck, "_ask", lambda self: time.sleep(60))
        monkeypatch.setattr(reach, "LIMIT_S", 0.1)
        start = time.monotonic()
        assert HubCheck().answer().startswith("no (nothing within")
        assert time.monotonic() - start < 30

    def test_offline(self, place: Caches, monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert HubCheck().answer() == "not asked (offline)"
        assert hub.requests == []

    def test_where_the_default_model_is(self, place: Caches) -> None:
        assert reach.default_model() == "not yet downloaded"
        write(place.checkpoints / DEFAULT)
        assert reach.default_model() == "in the Hugging Face cache or ./checkpoints"


HEALTHY: dict[str, Any] = {
    "versions": {"torch": "2.13.0+cu130 (CUDA 13.0 build)", "lightning": "2.6.6", "huggingface_hub": "2.4.0"},
    "cpu": {"torch_threads": 8, "container_cores": None},
    "memory": {"free_bytes": 10_000_000_000},
    "gpus": {
        "nvidia": [{"name": "NVIDIA H100", "driver": "580.65.06"}],
        "cuda": [{"name": "NVIDIA H100", "compute_capability": "9.0", "in_this_torch": True}],
    },
    "kernels": {"run": "avx512+amx"},
    "caches": {
        "huggingface": {"path": "~/hf", "writable": True, "disk_free_bytes": 10**12},
        "mygpt": {"path": "~/mygpt", "writable": True, "disk_free_bytes": 10**12},
        "checkpoints": {"path": "checkpoints", "writable": False, "disk_free_bytes": 10**12},
    },
    "hub": {
        "answers": "yes (0.1 s)",
        "endpoint": "https://huggingface.co",
        "default_model": "not yet downloaded",
    },
}
CPU_BUILD = "2.13.0+cpu (CPU build)"


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(HEALTHY)
    for name, facts in sections.items():
        found[name].update(facts)
    return found


def test_a_healthy_machine_has_no_problems() -> None:
    assert problems(HEALTHY) == []


@pytest.mark.parametrize(
    ("sections", "problem", "remedy"),
    [
        ({"versions": {"torch": CPU_BUILD}, "gpus": {"cuda": []}}, "build for CPUs", "/whl/cu130"),
        (
            {
                "versions": {"torch": CPU_BUILD},
                "gpus": {"cuda": [], "nvidia": [{"name": "Tesla T4", "driver": "535.54"}]},
            },
            "cannot use the Tesla T4",
            "pip install --force-reinstall 'torch<2.14,>=2.11' --index-url https://download.pytorch.org/whl/cu126",
        ),
        (
            {"gpus": {"cuda": [], "nvidia": [{"name": "Tesla T4", "driver": "535.54"}]}},
            "the NVIDIA driver 535.54 is too old",
            "update the driver to 580",
        ),
        ({"gpus": {"cuda": []}}, "torch does not see the NVIDIA H100", "CUDA_VISIBLE_DEVICES"),
        (
            {"gpus": {"cuda": [{"name": "GTX 1080", "compute_capability": "6.1", "in_this_torch": False}]}},
            "no code for the GTX 1080",
            "cu126",
        ),
        ({"versions": {"torch": "unknown (no torch)"}}, "torch cannot be imported", "pip install"),
        ({"versions": {"lightning": None}}, "lightning is not installed", "pip install 'lightning<3,>=2.6'"),
        ({"versions": {"huggingface_hub": "0.36.0"}}, "huggingface_hub 0.36.0", "pip install 'huggingface"),
        ({"kernels": {"run": "none: no C compiler"}}, "no C compiler", "apt install gcc"),
        ({"kernels": {"run": "none: MYGPT_ISA=none"}}, "MYGPT_ISA=none", "unset MYGPT_ISA"),
        ({"kernels": {"run": "none: gcc failed"}}, "gcc failed", "update gcc"),
        (
            {"kernels": {"run": "none: [Errno 30] Read-only file system: '/x'"}},
            "Read-only",
            "set MYGPT_KERNELS",
        ),
        ({"kernels": {"run": "none: torch brings no libgomp"}}, "libgomp", "report"),
        (
            {"kernels": {"run": "unknown (MYGPT_ISA=x is not a level of this machine; it has avx2, none)"}},
            "MYGPT_ISA=x is not a level of this machine; it has avx2, none",
            "set it to one of these",
        ),
        ({"cpu": {"container_cores": 2.5}}, "8 threads, but the container has 2.5", "OMP_NUM_THREADS=2"),
        ({"memory": {"free_bytes": 900_000_000}}, "only 900 MB", "mygpt plan"),
        (
            {"caches": {"mygpt": {"path": "~/m", "writable": False, "disk_free_bytes": 0}}},
            "~/m cannot be written",
            "set MYGPT_CACHE",
        ),
        (
            {"caches": {"huggingface": {"path": "~/hf", "writable": True, "disk_free_bytes": 10**9}}},
            "only 1.0 GB are free on the disk of ~/hf",
            "mygpt rm",
        ),
        ({"hub": {"answers": "no (ConnectError)"}}, "does not answer", "the default model comes from PyPI"),
    ],
)
def test_a_problem_has_its_remedy(sections: dict[str, Any], problem: str, remedy: str) -> None:
    (found,) = problems(changed(**sections))
    assert problem in found["problem"]
    assert remedy in found["remedy"]


def test_what_is_unknown_hides_no_problem() -> None:
    found = {
        **changed(memory={"free_bytes": 0}),
        "cpu": "unknown (x)",
        "kernels": "unknown (x)",
        "gpus": "unknown",
    }
    assert [problem["problem"] for problem in problems(found)] == ["only 0 B of memory are free"]


def test_one_disk_is_told_once() -> None:
    cache = {"writable": True, "disk_free_bytes": 10**9}
    found = changed(caches={"huggingface": {**cache, "path": "a"}, "mygpt": {**cache, "path": "b"}})
    assert len(problems(found)) == 1


def test_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 9.0, 570.86.15'\necho 'Tesla T4, [N/A], 7.5, 570.86.15'\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    first, second = machine.nvidia()
    assert first == {
        "name": "NVIDIA H100 80GB HBM3",
        "total_bytes": 81559 * 2**20,
        "compute_capability": "9.0",
        "driver": "570.86.15",
    }
    assert (second["name"], second["total_bytes"]) == ("Tesla T4", None)


def test_a_driver_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    file = tmp_path / "version"
    monkeypatch.setattr(machine, "Path", lambda name: file)
    assert machine.nvidia() == []
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Tue Jan 14 06:32:51 UTC 2025\n"
    )
    assert machine.nvidia() == [{"name": "NVIDIA GPU", "driver": "570.86.15"}]
    file.write_text("?")
    assert machine.nvidia() == [{"name": "NVIDIA GPU", "driver": "unknown"}]


def test_a_gpu_that_torch_sees(
    place: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that fails at a part of what is asked: the rest is told, and no other section is lost."""

    properties = SimpleNamespace(name="NVIDIA L4", total_memory=24 * 10**9, major=8, minor=9)

    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: the device is busy")

    for name, function in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda device: properties,
        "get_arch_list": lambda: ["sm_80", "sm_90"],
        "mem_get_info": fail,
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(bandwidth, "gpu_bandwidth", lambda device: 300.0)
    assert report(capsys)["gpus"]["cuda"] == [
        {
            "name": "NVIDIA L4",
            "total_bytes": 24 * 10**9,
            "free_bytes": "unknown (CUDA error: the device is busy)",
            "compute_capability": "8.9",
            "in_this_torch": True,
            "copy_gb_per_s": 300.0,
        }
    ]


def test_the_bandwidth_is_that_of_the_bytes_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock by which each run takes a second; too little free memory is not filled up to measure it."""
    monkeypatch.setattr(bandwidth.time, "perf_counter", iter(range(100)).__next__)
    assert bandwidth.cpu_bandwidth(1, None) == pytest.approx(2**28 / 1e9)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert bandwidth.gpu_bandwidth(torch.device("cpu")) == pytest.approx(2 * 4 * 2**28 / 1e9)
    with pytest.raises(MemoryError):
        bandwidth.cpu_bandwidth(1, 2**29)


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """As their Python answers."""
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.system() == "macOS 15.1"
    said = SimpleNamespace(stdout="Apple M3 Max\n")
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: said if command[0] == "sysctl" else None
    )
    assert machine.cpu_name() == "Apple M3 Max"
    monkeypatch.setattr(sys, "platform", "win32")
    assert machine.system() == platform.platform()
    with pytest.raises(OSError, match="Windows"):
        machine.total_memory()


@pytest.mark.parametrize(
    ("capability", "built_for", "has"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),
        ((6, 1), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((12, 1), ["sm_100", "sm_120"], True),
        ((8, 6), ["sm_89"], False),
    ],
)
def test_whether_torch_has_code_for_a_gpu(
    capability: tuple[int, int], built_for: list[str], has: bool
) -> None:
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    assert probes._has_code(properties, built_for) == has


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_containers_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2: the tightest of the groups above; version 1: the container's own files."""
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "own")
    assert (machine.container_memory(), machine.container_cores()) == (None, None)
    (tmp_path / "own").write_text("1:cpu:/x\n0::/kube/pod\n")
    write(tmp_path / "kube", {"memory.max": b"2000000\n", "cpu.max": b"max 100000\n"})
    write(tmp_path / "kube" / "pod", {"memory.max": b"max\n", "cpu.max": b"150000 100000\n"})
    assert (machine.container_memory(), machine.container_cores()) == (2_000_000, 1.5)
    shutil.rmtree(tmp_path / "kube")
    write(tmp_path / "memory", {"memory.limit_in_bytes": b"3000000\n"})
    write(tmp_path / "cpu", {"cpu.cfs_quota_us": b"-1\n", "cpu.cfs_period_us": b"100000\n"})
    assert (machine.container_memory(), machine.container_cores()) == (3_000_000, None)
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine.container_memory() is None


def test_a_cache_on_a_full_disk(
    place: Caches, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    found = report(capsys)
    assert found["caches"]["mygpt"]["writable"] is False
    assert any("set MYGPT_CACHE" in problem["remedy"] for problem in found["problems"])

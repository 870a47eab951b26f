"""What does not fit the free memory is refused before its weights are read, and what would run is not."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mygpt import LLM
from mygpt.__main__ import main
from mygpt.checkpoint.open import open_checkpoint
from mygpt.families import read_config
from mygpt.loading import load, memory_check, room
from mygpt.loading.memory_check import LEAST
from mygpt.loading.plan import make_plan
from mygpt.loading.room import DevicePlan, find_rooms
from mygpt.options import LoadOptions
from mygpt.parallel.host_memory import free_host_bytes
from tests.fake_hub import Repo, serve
from tests.hub.test_resolve import SMALL, use_endpoint
from tests.models import write_model

BIG = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4}  # 7 million weights
Free = Callable[[float], None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Says how much memory is free."""

    def say(size: float) -> None:
        for module in (room, memory_check):
            monkeypatch.setattr(module, "free_host_bytes", lambda: size)

    return say


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 26 MB in float32, as it is stored."""
    return write_model(tmp_path_factory.mktemp("model") / "gpt", **BIG)


def told(folder: Path, capfd: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    capfd.readouterr()
    code = main(["generate", str(folder), "--prompt", "Hi", "--max_new_tokens", "2", *options])
    return code, capfd.readouterr().err


def test_what_does_not_fit_is_refused_at_once(
    folder: Path, free: Free, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "build", lambda *arguments: pytest.fail("weights are read"))
    free(14e6)
    code, error = told(folder, capfd, "--precision", "32-true")
    assert code == 2
    expected = (
        f"error: {folder} takes 26.2 MB on cpu for this run and 14.0 MB are free: use --precision bf16-true ("
    )
    assert error.startswith(expected)
    assert "--quantize bnb.nf4 (" in error
    assert error.endswith(
        f") or a smaller model; 'mygpt plan {folder}' shows more, and MYGPT_SKIP_MEMORY_CHECK=1 tries it all the same\n"
    )


def test_only_what_fits_is_a_remedy(folder: Path, free: Free, capfd: pytest.CaptureFixture[str]) -> None:
    free(9e6)
    assert "are free: use --quantize bnb.nf4 (7." in told(folder, capfd, "--precision", "32-true")[1]
    free(1e6)
    assert "are free: use a smaller model; 'mygpt plan" in told(folder, capfd, "--precision", "32-true")[1]


def test_the_check_can_be_left_out(
    folder: Path, free: Free, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(1e6)
    monkeypatch.setenv("MYGPT_SKIP_MEMORY_CHECK", "1")
    code, error = told(folder, capfd)
    assert code == 0 and "are free" not in error


def test_a_worker_leaves_it_to_the_first_rank(
    folder: Path, free: Free, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rank may be loading already, so that less is free."""
    free(1e6)
    monkeypatch.setenv("LOCAL_RANK", "1")
    LLM.load(str(folder), accelerator="cpu")


def test_weights_that_stay_in_the_file_are_no_reason(
    folder: Path, free: Free, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(folder, "32-true")
    needed, held = plan.total_bytes, plan.total_bytes - plan.mapped_bytes
    assert 0.5 * needed < held < 0.9 * needed
    free(held)
    code, error = told(folder, capfd, "--precision", "32-true")
    assert code == 0
    assert error.startswith(f"note: {folder} takes 26.2 MB on cpu for this run and")
    assert "weights are read from the disk again and again; faster is --precision bf16-true (" in error
    free(held - 1)
    assert told(folder, capfd, "--precision", "32-true")[0] == 2
    free(needed)
    assert told(folder, capfd, "--precision", "32-true")[1].startswith("cpu 32-true")


def plan_of(folder: Path, precision: str, **options: Any) -> DevicePlan:
    checkpoint = open_checkpoint(folder)
    loading = LoadOptions(precision=precision, accelerator="cpu", strategy="auto", **options)
    config = read_config(checkpoint.config)[1]
    return make_plan(config, None, loading, LEAST, file_dtype=checkpoint.mapped_dtype).devices[0]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "falcon"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_the_weights_that_stay_in_the_file_are_counted(tmp_path: Path, family: str, precision: str) -> None:
    """By the addresses of the loaded weights: in a mapping of the file, or in memory of their own."""
    folder = write_model(tmp_path / "model", family)
    llm = LLM.load(str(folder), precision=precision, accelerator="cpu")
    assert isinstance(llm.loaded.model, torch.nn.Module)
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line:
            mappings.append([int(number, 16) for number in line.split()[0].split("-")])
    weights = list(llm.loaded.model.parameters())
    mapped = sum(
        weight.nbytes
        for weight in weights
        if any(start <= weight.data_ptr() < end for start, end in mappings)
    )
    assert plan_of(folder, precision).mapped_bytes == mapped
    assert (mapped > 0) == (precision == "32-true")


def test_shares_of_one_machine_are_added_up(folder: Path, free: Free) -> None:
    one = plan_of(folder, "32-true").total_bytes
    free(one)
    options = LoadOptions(devices=2, strategy="tensor", precision="32-true", accelerator="cpu")
    config = read_config(json.loads((folder / "config.json").read_text()))[1]
    (of_host,) = make_plan(config, None, options, LEAST).rooms or ()
    assert of_host.name == "cpu" and one < of_host.needed < 1.5 * one


def test_offloaded_weights_wait_in_the_machines_memory(free: Free, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40, 80))
    free(100)
    shares = [DevicePlan(f"cuda:{i}", 0, 10, 20, 0.0, offloaded_bytes=60) for i in range(2)]
    devices = [torch.device("cuda", i) for i in range(2)]
    rooms = find_rooms(shares, devices, None, all_devices=True)
    assert rooms is not None
    assert [(found.name, found.needed, found.free) for found in rooms] == [
        ("cuda:0", 30, 40),
        ("cuda:1", 30, 40),
        ("cpu", 120, 100),
    ]
    first = find_rooms(shares, devices, None, all_devices=False)
    assert first is not None and [found.name for found in first] == ["cuda:0", "cpu"]
    assert find_rooms(shares, [torch.device("mps")] * 2, None, all_devices=True) != []
    assert find_rooms([DevicePlan("mps", 1, 1, 1, 0.0)], devices, None, all_devices=True) is None


def test_more_gpus_are_a_remedy(
    free: Free, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    """As many as are enough, of those that are there."""
    free(1e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (46.5e6, 80e6))  # 34 MB are cuBLAS's
    code, error = told(folder, capfd, "--precision", "32-true")
    assert code == 2
    assert f"{folder} takes 59.8 MB on cuda:0 for this run and 46.5 MB are free: use " in error
    assert "--devices 3 (" in error and "--devices 4" not in error and "--devices 2" not in error


def test_a_model_that_is_too_large_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    huge = {
        "hidden_size": 8192,
        "intermediate_size": 4_000_000,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    }
    huge |= {"model_type": "llama", "vocab_size": 99, "num_hidden_layers": 20, "torch_dtype": "float16"}
    with serve() as hub:
        use_endpoint(monkeypatch, hub.url)
        hub.repos["owner/huge"] = Repo(
            {**SMALL, "config.json": json.dumps(huge).encode(), "model.safetensors": b"weights"}
        )
        assert main(["generate", "owner/huge", "--prompt", "Hi", "--accelerator", "cpu"]) == 2
        assert "model.safetensors" not in hub.fetched()
    *_, error = capfd.readouterr().err.splitlines()
    assert error.startswith("error: owner/huge takes ")
    assert "GB on cpu for this run and" in error


MEMINFO = "MemTotal: 900 kB\nMemFree: 100 kB\nMemAvailable:     700 kB\n"
STAT = "anon 5\nactive_file {0}\ninactive_file {1}\ntotal_active_file {0}\ntotal_inactive_file {1}\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(group: str, limit: str, usage: int, files: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{group}".rstrip("/")
    stat = STAT.format(files - 1, 1)
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": str(usage),
        f"{folder}/memory.stat": stat,
    }


GROUPS_V1 = {
    "proc/self/cgroup": "9:cpu:/a\n4:memory,hugetlb:/a/b\n0::/\n",
    "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "3000",
    "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes": "2500",
    "sys/fs/cgroup/memory/a/b/memory.stat": STAT.format(200, 300),
}
OWN = {"proc/self/cgroup": "0::/own/group\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 700 * 1024),
        ({**OWN, **v2("own/group", "max", 10, 5)}, 700 * 1024),
        ({**OWN, **v2("own/group", "5000", 4000, 500)}, 1500),
        ({**OWN, **v2("own/group", "5000", 4000, 500), **v2("own", "4800", 4700, 100)}, 200),  # the tightest
        ({**OWN, **v2("", "5000", 4000, 500)}, 1500),  # a container, which sees its own group as the root
        ({**OWN, **v2("own/group", "5000", 6000, 500)}, 0),
        (GROUPS_V1, 1000),
        ({"proc/self/cgroup": "nonsense"}, 700 * 1024),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert free_host_bytes(write(tmp_path, files)) == expected


def test_on_other_systems_it_is_not_known(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_this_machines_memory() -> None:
    found = free_host_bytes()
    assert found is not None and found > 2**28


def test_where_it_is_not_known_nothing_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (room, memory_check):
        monkeypatch.setattr(module, "free_host_bytes", lambda: None)
    LLM.load(str(folder), accelerator="cpu")


def test_the_default_model_costs_no_plan(folder: Path, free: Free, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the files are small beside the free memory, the model is not even built on the meta device."""
    monkeypatch.setattr(memory_check, "make_plan", lambda *arguments, **options: pytest.fail("a plan"))
    free(16 * sum(file.stat().st_size for file in folder.iterdir()))
    LLM.load(str(folder), accelerator="cpu")

"""Every family's tiny model answers on several devices as it does on one."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mygpt import LLM
from mygpt.checkpoint.open import open_checkpoint
from mygpt.families import read_config
from mygpt.loading.build import build
from mygpt.loading.load import LoadedModel
from mygpt.options import LoadOptions
from mygpt.parallel.placement import Placement
from tests.families.variants import Variant
from tests.parallel.answers import IDS, THOROUGH, answers
from tests.parallel.models import ALL, FEW, FIRST, MANY_CACHES, divisible
from tests.parallel.threads import on_threads

Answers = dict[str, Any]
CPU = torch.device("cpu")
FLOAT32 = {"precision": "32-true"}
# The models on as many ranks, and those whose weights are shared out: fewer on more, which take longer.
TENSOR = [(devices, v) for devices, models in {2: ALL, 3: ALL, 4: FEW}.items() for v in models]
FSDP = [(2, v) for v in FIRST] + [(3, v) for v in FIRST if v.name in MANY_CACHES]
OFFLOADED = [(2, v) for v in FIRST[:3]]
# Those of them that run in processes in the default run too, where threads stand in for the other ones.
IN_PROCESSES = ("llama-gqa", "gpt2", "qwen2-moe")


class Bench:
    """The models of one number of devices, and what they answer."""

    def __init__(self, root: Path, devices: int) -> None:
        self.root = root
        self.devices = devices
        self.on_one: dict[str, Answers] = {}
        self.in_group = cache(self._in_group)

    def folder(self, chosen: Variant) -> Path:
        """The model, made when it is first asked for."""
        folder = self.root / chosen.name
        if not folder.exists():
            divisible(chosen, self.devices).build(folder)
        return folder

    def placed(self, chosen: Variant, placement: Placement) -> Answers:
        """The answers in this process."""
        checkpoint = open_checkpoint(self.folder(chosen))
        architecture = read_config(checkpoint.config)
        model, precision = build(checkpoint, *architecture, placement, LoadOptions(**FLOAT32))
        loaded = LoadedModel(model, None, frozenset(), ("cpu",), precision, None, load_s=0.0)
        return answers(LLM(loaded), kinds(chosen))

    def one(self, chosen: Variant) -> Answers:
        """The answers on one device."""
        if chosen.name not in self.on_one:
            self.on_one[chosen.name] = self.placed(chosen, Placement(None, (CPU,), ("cpu",)))
        return self.on_one[chosen.name]

    def threads(self, chosen: Variant) -> Answers:
        """The answers of threads."""
        with on_threads(self.folder(chosen), self.devices, **FLOAT32) as llm:
            return answers(llm, kinds(chosen))

    def processes(self, chosen: Variant, strategy: str, cpu_offload: bool = False) -> Answers:
        """The answers of processes."""
        return self.in_group(in_default(self.devices, chosen))[key(chosen, strategy, cpu_offload)]

    def _in_group(self, default: bool) -> dict[str, Answers]:
        """The answers of all models of the default run, or of all others: a group is started once for them."""
        jobs = [
            (key(v, strategy, offload), str(self.folder(v)), strategy, offload, kinds(v), FLOAT32)
            for strategy, offload, cases in (
                ("tensor", False, TENSOR),
                ("fsdp", False, FSDP),
                ("fsdp", True, OFFLOADED),
            )
            for devices, v in cases
            if devices == self.devices and in_default(devices, v) == default
        ]
        return on_ranks(self.root, jobs, self.devices)


def on_ranks(root: Path, jobs: list[Any], devices: int) -> dict[str, Answers]:
    """The answers to the jobs of `ranks_script`."""
    (root / "jobs.json").write_text(json.dumps(jobs))
    arguments = [root / "jobs.json", root / "results.pt", devices]
    subprocess.run(
        [sys.executable, "-m", "tests.parallel.ranks_script", *map(str, arguments)],
        check=True,
        timeout=600,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return torch.load(root / "results.pt")


def in_default(devices: int, chosen: Variant) -> bool:
    """Whether so many processes run the model in the default run."""
    return devices == 2 and chosen.name in IN_PROCESSES


def in_processes(cases: list[tuple[int, Variant]]) -> list[Any]:
    """The cases as parameters of a test of processes."""
    return [
        pytest.param(d, v, id=f"{d}-{v}", marks=() if in_default(d, v) else pytest.mark.full)
        for d, v in cases
    ]


def kinds(chosen: Variant) -> tuple[str, ...]:
    return THOROUGH if chosen.name in MANY_CACHES else IDS


def key(chosen: Variant, strategy: str, cpu_offload: bool = False) -> str:
    return f"{chosen.name} {strategy} {cpu_offload}"


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bench]:
    return {devices: Bench(tmp_path_factory.mktemp(f"on{devices}"), devices) for devices in (2, 3, 4)}


def check(found: Answers, expected: Answers, tolerance: float) -> None:
    """The same ids, and logits that differ by rounding alone; what is wrong of them is told first."""
    scale = expected["logits"].abs().max()
    assert (found["logits"] - expected["logits"]).abs().max() / scale < tolerance
    assert found.keys() == expected.keys()
    for kind in found.keys() - {"logits"}:
        assert found[kind] == expected[kind], kind


@pytest.mark.parametrize(
    ("devices", "chosen"),
    # Three share out as four do: fewer of them in the default run.
    [
        pytest.param(d, v, id=f"{d}-{v}", marks=pytest.mark.full if d == 3 and v not in FEW else ())
        for d, v in TENSOR
    ],
)
def test_tensor_parallel_on_threads(benches: dict[int, Bench], devices: int, chosen: Variant) -> None:
    bench = benches[devices]
    check(bench.threads(chosen), bench.one(chosen), 1e-4)


@pytest.mark.parametrize(("devices", "chosen"), in_processes(TENSOR))
def test_tensor_parallel(benches: dict[int, Bench], devices: int, chosen: Variant) -> None:
    bench = benches[devices]
    check(bench.processes(chosen, "tensor"), bench.one(chosen), 1e-4)


@pytest.mark.parametrize(("devices", "chosen"), in_processes(FSDP))
def test_fsdp(benches: dict[int, Bench], devices: int, chosen: Variant) -> None:
    bench = benches[devices]
    check(bench.processes(chosen, "fsdp"), bench.one(chosen), 1e-5)


@pytest.mark.parametrize(("devices", "chosen"), in_processes(OFFLOADED))
def test_fsdp_with_the_weights_in_host_memory(
    benches: dict[int, Bench], devices: int, chosen: Variant
) -> None:
    bench = benches[devices]
    check(bench.processes(chosen, "fsdp", cpu_offload=True), bench.one(chosen), 1e-5)


@pytest.mark.parametrize("chosen", ALL, ids=str)
@pytest.mark.parametrize("parts", [2, pytest.param(3, marks=pytest.mark.full)])
def test_sequential(benches: dict[int, Bench], parts: int, chosen: Variant) -> None:
    placement = Placement("sequential", (CPU,) * parts, tuple(f"cpu:{part}" for part in range(parts)))
    check(benches[parts].placed(chosen, placement), benches[parts].one(chosen), 1e-5)

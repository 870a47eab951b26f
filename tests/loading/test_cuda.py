"""The GPU gives what the CPU gives. Skipped where there is no NVIDIA GPU."""

from pathlib import Path

import pytest
import torch

from mygpt import LLM
from mygpt.loading.compile import Compiled
from mygpt.options import Sampling
from tests.models import FAMILIES, write_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def cpu(folder: Path) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


@pytest.fixture
def gpu(folder: Path) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cuda")


def test_logits_equal_the_cpus(cpu: LLM, gpu: LLM) -> None:
    ids = torch.randint(0, cpu.config.vocab_size, (2, 20))
    torch.testing.assert_close(gpu.logits(ids), cpu.logits(ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.0), Sampling(top_p=0.9)], ids=["greedy", "sampled"]
)
def test_a_ragged_batch_gives_the_cpus_ids(cpu: LLM, gpu: LLM, sampling: Sampling) -> None:
    prompts = [[5, 6, 7], [8], list(range(10, 25))]
    batches = [llm.engine.batch(prompts, sampling, 12, seeds=[1, 2, 3]) for llm in (cpu, gpu)]
    for batch in batches:
        list(batch)
    ours, theirs = ([c.sequence.new_ids for c in batch.completions] for batch in batches)
    assert ours == theirs


def test_the_default_precision_is_a_narrow_one(folder: Path) -> None:
    llm = LLM.load(str(folder))
    assert llm.loaded.device.type == "cuda"
    assert llm.loaded.precision in ("bf16-true", "16-true")
    assert max(llm.peak_memory()) > 0


def test_compiled_with_graphs_gives_the_same_ids(folder: Path, gpu: LLM) -> None:
    """Each step a CUDA graph, over a chat whose cache grows, and a ragged batch."""
    compiled = LLM.load(str(folder), precision="32-true", accelerator="cuda", compile=True)
    assert isinstance(compiled.loaded.model, Compiled)
    assert compiled.loaded.model.graphs is not None
    answers = []
    for llm in (gpu, compiled):
        batch = llm.engine.batch(
            [[5, 6, 7], [8], list(range(10, 25))], Sampling(temperature=0.0), 12, seeds=[1, 2, 3]
        )
        list(batch)
        chat = llm.chat(temperature=0.0, max_new_tokens=8)
        turns = ["".join(chat.say(text)) for text in ("Hello", "And more")]
        answers.append((turns, [c.sequence.new_ids for c in batch.completions]))
    assert answers[0] == answers[1]

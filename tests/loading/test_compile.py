"""Compiled equals eager, and nothing is compiled twice: not as a sequence grows, between turns, or in the next run."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.fx.experimental.proxy_tensor import make_fx

import mygpt.loading.compile
import mygpt.model.kv_cache
from mygpt import LLM
from mygpt.__main__ import main
from mygpt.errors import InputError, RunError
from mygpt.loading.build import pick_scheme
from mygpt.loading.compile import Compiled, _explained, prepare_compiler, progress
from mygpt.loading.cuda_graphs import StepGraphs
from mygpt.model.forward_context import StaticContextBuilder
from mygpt.model.gpt import GPT
from mygpt.options import Sampling
from mygpt.parallel.placement import Placement
from tests.families.variants import variant
from tests.models import needs_compiler, write_model

KINDS = 3  # of passes over one sequence: a prompt, more, one token
TURNS = ("Hello", "What is that? Tell me all of it.", "x", "And more of a longer turn, with many words in it")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Caches that grow every few tokens, no workers that outlive the tests, no code of another test."""
    for module in (mygpt.model.kv_cache, mygpt.loading.compile):
        monkeypatch.setattr(module, "GROWTH", 32)
    with torch._inductor.config.patch(compile_threads=1):
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1000)


def load(folder: Path, **options: object) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cpu", **options)


def talk(llm: LLM) -> list[list[int]]:
    chat = llm.chat(temperature=0.0, max_new_tokens=12)
    answers = []
    for turn in TURNS:
        "".join(chat.say(turn))
        assert chat.last is not None
        answers.append(chat.last.new_ids)
    return answers


@needs_compiler
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_chat_compiles_nothing_after_the_load(folder: Path) -> None:
    eager = load(folder)
    before = counters["stats"]["unique_graphs"]
    compiled = load(folder, compile=True)
    assert counters["stats"]["unique_graphs"] - before == KINDS  # for all layers together
    before = counters["stats"]["unique_graphs"]
    assert talk(compiled) == talk(eager)
    greedy = {"temperature": 0.0, "max_new_tokens": 40}
    for prompt in ([5], [7, 8], list(range(60))):
        assert compiled.generate_ids(prompt, **greedy) == eager.generate_ids(prompt, **greedy)
    drafted = compiled.generate_ids([5, 6, 7, 5, 6, 7, 5, 6], speculate="ngram", **greedy)
    assert drafted == eager.generate_ids([5, 6, 7, 5, 6, 7, 5, 6], **greedy)
    assert counters["stats"]["unique_graphs"] == before


def test_batches_equal_eager(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged prompts, shared prompts longer than a new cache, whatever batch size: two kinds of passes."""
    traced: list[nn.Module] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        traced.append(graph)
        return graph.forward

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_(self, backend=backend, **how))
    monkeypatch.setattr(Compiled, "warm_up", lambda self: None)
    monkeypatch.setattr(
        "mygpt.loading.load.prepare_compiler", lambda placement: None
    )  # the backend is no compiler
    eager, compiled = load(folder), load(folder, compile=True)
    for prompts in ([[5, 6, 7], [8], list(range(10, 25))], [list(range(50))] * 2, [[9]] * 4, [[3, 4]] * 5):
        answers = []
        for llm in (eager, compiled):
            seeds = list(range(len(prompts)))
            batch = llm.engine.batch(prompts, Sampling(top_p=0.9), 20, seeds=seeds)
            list(batch)
            answers.append([c.sequence.new_ids for c in batch.completions])
        assert answers[0] == answers[1]
    assert (
        len(traced) == 4
    )  # the prompt that two samples share is one sequence; one token of five is as of three


def recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """As a CUDA graph: the operations on the tensors that they were recorded with, and no line of Python."""
    graph = make_fx(run)()
    return lambda: graph()


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(n, marks=pytest.mark.full) for n in ("llama-gqa", "gpt2")),
        "gemma3-text",
        "deepseek-v3-all-dense",
    ],
)
def test_recorded_steps_equal_eager(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the cache grows, of several sequences, and after drafts: windows, learned positions, latents."""
    monkeypatch.setattr("mygpt.kernels.cpu.isa.level", lambda: "none")  # which work past torch, unrecorded
    base = variant(name)
    base.build(tmp_path)
    eager, llm = load(tmp_path), load(tmp_path)
    model = llm.loaded.model
    assert isinstance(model, GPT)
    model.context_builder = StaticContextBuilder(model.config)
    graphs = StepGraphs(model, recorded)
    steady = object.__new__(Compiled)
    steady.__dict__.update(model=model, graphs=graphs, _kinds=set(), _marked=set())
    llm = LLM(replace(llm.loaded, model=steady))
    for prompts in (
        [[5, 6, 7], [8], list(range(10, 25))],
        [[5, 6, 5, 6, 5, 6]],
    ):  # of which drafts are right at times
        batches = [
            each.engine.batch(
                prompts, Sampling(temperature=0.0), 24, seeds=[0] * len(prompts), drafter=drafter
            )
            for each, drafter in ((eager, None), (llm, None), (llm, llm.engine.drafter("ngram")))
        ]
        answers = []
        for batch in batches:
            list(batch)
            answers.append([c.sequence.new_ids for c in batch.completions])
        assert answers[0] == answers[1] == answers[2]


NEXT_RUN = """
import sys
from mygpt import LLM
llm = LLM.load(sys.argv[1], precision="32-true", accelerator="cpu", compile=True)
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.full
@needs_compiler
def test_the_next_run_finds_the_code(folder: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    runs = [
        subprocess.run(
            [sys.executable, "-c", NEXT_RUN, str(folder)],
            env=environment | {"MYGPT_CACHE": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    ]
    assert [run.stdout.split() for run in runs] == [["0", str(KINDS)], [str(KINDS), "0"]]
    assert [run.stderr for run in runs] == ["", ""]  # no terminal, no progress


def test_progress_is_one_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with progress(show=True), progress(show=True):
            pass
        with progress(show=False):
            pass
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", int(terminal))
    assert error.startswith("compiling the model")


def test_what_torch_cannot_compile_is_one_line() -> None:
    from torch._dynamo.exc import Unsupported

    with (
        pytest.raises(InputError, match=r"^--compile: torch\.compile failed \(a generator\); leave it out$"),
        _explained(),
    ):
        raise Unsupported("a generator\n  of that file")


def test_not_on_apples_gpus() -> None:
    mps = torch.device("mps")
    with pytest.raises(InputError, match="--compile does not go with mps"):
        prepare_compiler(Placement(None, (mps,), ("mps",)))
    with pytest.raises(
        InputError, match=r"bnb\.nf4: quantized weights do not run on mps; use --accelerator cpu"
    ):
        pick_scheme(None, "config.json", "bnb.nf4", None, mps)


@pytest.mark.skipif(sys.platform == "win32", reason="temporary files are each user's own there")
def test_code_is_kept_where_nobody_else_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run, and torch reads pickles beside it."""
    monkeypatch.setenv("MYGPT_CACHE", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    placement, shared = Placement(None, (torch.device("cpu"),), ("cpu",)), tmp_path / "compile"
    for mode, folder in ((0o755, shared), (0o775, shared / str(os.geteuid()))):
        shared.mkdir(exist_ok=True)
        shared.chmod(mode)
        with suppress(InputError):  # no compiler
            prepare_compiler(placement)
        assert os.environ.pop("TORCHINDUCTOR_CACHE_DIR") == str(folder)
    monkeypatch.setattr(os, "geteuid", lambda: 2**31)
    with pytest.raises(
        RunError, match=r"--compile cannot keep its code in .*/compile \(other users can write to it\)"
    ):
        prepare_compiler(placement)


def test_without_a_compiler(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/compiler",))
    options = ["--prompt", "Hi", "--compile", "true", "--accelerator", "cpu"]
    assert main(["generate", str(folder), *options]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err

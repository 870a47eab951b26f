"""The house: imports go one way, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mygpt
from tests.models import write_model

PACKAGE = Path(mygpt.__file__).parent
# From the bottom up; a module imports only what stands on an earlier line or within its own.
LAYERS = [
    {"errors", "paths", "loading.allocator"},
    {"model.config", "options"},
    {"kernels"},
    {
        "model.rope",
        "model.forward_context",
        "engine.sampling",
        "model.linear",
        "model.norm",
        "text.stop_strings",
    },
    {"model.kv_cache", "quantize", "engine.sequence", "model.steady_context"},
    {"text.tokenizer", "text.tokenizer_files", "text.chat_template", "text.prompt_styles"},
    {"checkpoint.index"},
    {
        "checkpoint.weight_files",
        "checkpoint.open",
        "checkpoint.write",
        "checkpoint.gguf.checkpoint",
        "checkpoint.gguf.header",
        "checkpoint.gguf.tokenizer",
        "quantize.fp8",
        "quantize.mxfp4",
    },
    {"hub.resolve", "hub.files", "hub.errors", "hub.resume", "hub.default_model"},
    {"hub.prefetch"},
    {"families"},
    {"model.mlp", "model.attention", "model.router"},
    {"parallel.collectives"},
    {"model.moe", "model.latent_attention"},
    {"model.gpt", "checkpoint.fill"},
    {"model.fused_block"},
    {"engine.decode", "engine.detokenizer"},
    {"engine.speculation"},
    {"parallel", "loading.workspace"},
    {"loading.build", "checkpoint.convert", "loading.cuda_graphs"},
    {"loading.compile"},
    {"loading.load", "loading.plan"},
    {"chat.transcript"},
    {"llm", "chat.conversation"},
    {"__init__"},
    {"chat"},
    {"commands", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """The parts of mygpt that a module imports, at its top or within a function."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            head, _, rest = name.partition(".")
            if head == "mygpt" and (part := part_of(rest)):
                parts.add(part)
    return parts


def part_of(name: str) -> str | None:
    """The part that a module belongs to: itself, or the nearest package that has a layer."""
    while name and name not in LEVEL:
        name = name.rpartition(".")[0]
    return name or None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if not imported(path) and path.name == "__init__.py":
        return
    part = part_of(name.removesuffix(".__init__"))
    assert part, f"{name} has no place in the house: give it a layer here and in CONTRIBUTING.md"
    above = {name for name in imported(path) if LEVEL[name] > LEVEL[part]}
    assert not above, f"{part} imports {above}, which stand above it"


def modules_after(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(run.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import mygpt",
        "import mygpt.families",
        "from mygpt.__main__ import main; main(['--help'])",
        "from mygpt.__main__ import main; main(['chat', '--help'])",
        "from mygpt.__main__ import main; main(['plan', '--help'])",
        "from mygpt.__main__ import main; main(['generate', '--temperature', '-1', '--prompt', 'x'])",
    ],
)
def test_no_torch_before_it_is_needed(code: str) -> None:
    heavy = {"torch", "lightning", "transformers", "numpy", "rich", "prompt_toolkit"}
    assert not modules_after(code) & heavy


def test_a_command_imports_no_other_command() -> None:
    commands = {m for m in modules_after("import mygpt.commands.download") if m.startswith("mygpt.commands.")}
    assert "mygpt.commands.generate" not in commands


def test_generating_does_not_wait_for_what_it_does_not_need(tmp_path: Path) -> None:
    """Each takes as long as torch itself: Fabric; torch._dynamo, which torch imports for random numbers on the meta
    device, and sympy, for how a tensor there lies."""
    arguments = [
        "generate",
        str(write_model(tmp_path / "model.gpt")),
        "--prompt",
        "Hi",
        "--max_new_tokens",
        "1",
    ]
    modules = modules_after(f"from mygpt.__main__ import main; assert main({arguments}) == 0")
    heavy = {"lightning", "transformers", "torchmetrics", "torch._dynamo", "sympy", "rich", "prompt_toolkit"}
    assert "mygpt.llm" in modules
    assert not modules & heavy


def test_help_starts_quickly() -> None:
    """No timing is asserted tightly here: ten times the usual 40 ms would mean a heavy import."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mygpt", "--help"], check=True, capture_output=True)
    assert time.perf_counter() - start < 5

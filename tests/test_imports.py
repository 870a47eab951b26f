"""The house: imports go one way and in no circle, and nothing heavy is imported before it is needed."""

import ast
import re
import subprocess
import sys
import time
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mygpt
from tests.models import write_model

PACKAGE = Path(mygpt.__file__).parent
# From the top down: a package, or a file at the top of mygpt/, imports only what stands below it.
ROOMS = (
    "__main__",
    "commands",
    "__init__",
    "llm",
    "chat",
    "engine",
    "loading",
    "parallel",
    "options",
    "hub",
    "checkpoint",
    "families",
    "quantize",
    "text",
    "model",
    "kernels",
    "json_files",
    "paths",
    "errors",
    "messages",
)
FACADES = {
    "mygpt",
    "mygpt.families",
    "mygpt.kernels",
    "mygpt.options",
}  # packages whose __init__.py holds code


def dotted(path: Path) -> str:
    return ".".join(("mygpt", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The modules of mygpt that a module imports: at its top, in a function or for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not read here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found & MODULES.keys()


IMPORTS = {(module, name) for module, path in MODULES.items() for name in imported(path)}


def room(module: str) -> int:
    """The place of a module's room: the smaller, the higher."""
    return ROOMS.index(module.split(".")[1] if "." in module else "__init__")


def cycle(imports: set[tuple[str, str]]) -> list[str]:
    """Modules that import each other in turn, [] where there are none."""
    graph: dict[str, set[str]] = {}
    for module, name in imports:
        graph.setdefault(module, set()).add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_package_has_a_room() -> None:
    entries = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert entries <= {*ROOMS}, "give it a place in ROOMS, and a package one in CONTRIBUTING.md"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    names = {name for importer, name in IMPORTS if importer == module}
    upwards = {name for name in names if room(name) < room(module)}
    assert not upwards, f"{module} imports {upwards}, which stand above it"


def test_no_imports_go_in_a_circle() -> None:
    assert not cycle(IMPORTS)


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_a_package_holds_no_code_of_its_own(package: str) -> None:
    body = ast.parse(MODULES[package].read_text()).body
    assert ast.get_docstring(ast.Module(body, [])), f"{package} needs a docstring"
    assert (len(body) > 1) == (package in FACADES)


def test_few_files_lie_at_the_top() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 8


def test_contributing_has_a_line_for_each_package() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    table = text[text.index("| package") :].partition("\n\n")[0].splitlines()
    assert len(table) <= 15
    listed = [name for line in table[2:] for name in re.findall(r"`(\w+)/`", line.split("|")[1])]
    assert listed == [name for name in ROOMS if (PACKAGE / name).is_dir()]


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
        "from mygpt.__main__ import main; main(['help', 'generate'])",
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

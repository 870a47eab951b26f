"""Where the system gives too little, one line says so; a user without a home folder is no error."""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from mygpt.__main__ import main
from mygpt.errors import error_message
from mygpt.paths import cache_folder, user_number
from tests.models import write_model


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit addresses")
@pytest.mark.parametrize("megabytes", [60, 300])
def test_too_little_memory_to_import_torch(megabytes: int, tmp_path: Path) -> None:
    """As with `ulimit -v`. OpenBLAS, which numpy loads, may be the one that says it."""
    import resource  # not on Windows

    limit = megabytes << 20
    done = subprocess.run(
        [sys.executable, "-m", "mygpt", "generate", str(write_model(tmp_path / "model")), "--prompt", "Hi"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        ("error: out of memory or threads; raise the limits", "OpenBLAS error: Memory")
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("can't start new thread"),
            "out of memory or threads; raise the limits of 'ulimit -v' and",
        ),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            "out of memory or threads",
        ),
        (
            ImportError("Read this! Original error was: x.so: failed to map segment from shared object"),
            "(x.so: fa",
        ),
        (
            RuntimeError("unable to mmap 5 bytes from file <x>: Cannot allocate memory (12)"),
            "out of memory; try",
        ),
        (MemoryError(), "out of memory; try a smaller"),
        (OSError("x.so: failed to map segment from shared object: Operation not permitted"), "OSError: x.so"),
    ],
)
def test_what_is_said(error: Exception, message: str) -> None:
    said = error_message(error)
    assert message in said
    assert "Read this" not in said and "()" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="there, each user has one")
def test_no_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a number without a name, which some containers give their user."""

    import pwd  # not on Windows

    def unknown(number: int) -> NoReturn:
        raise KeyError(number)

    for name in ("HOME", "MYGPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"mygpt-{user_number()}"
    assert main(["list"]) == 0
    assert main(["rm", "no-such-model"]) == 2
    assert "RuntimeError" not in capsys.readouterr().err

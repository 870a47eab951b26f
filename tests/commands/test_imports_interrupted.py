"""Ctrl-C while a command imports torch, whose C++ code imports numpy and swallows what interrupts that."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import write_model

# Presses Ctrl-C where numpy is half imported, as a person may.
PRESS = """
import os, signal, sys

class Press:
    def find_spec(self, name, *_):
        if name == "numpy.linalg":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
signal.signal(signal.SIGINT, signal.default_int_handler)
from mygpt.__main__ import main
code = main(sys.argv[1:])
print("code", code)
"""


# The same where a callback is run, as when Python forgets the lock of a module: what it raises is lost.
PRESS_IN_A_CALLBACK = """
import os, signal, sys, weakref

class Forgotten:
    pass

class Press:
    def find_spec(self, name, *_):
        if name == "torch.nn":
            sys.meta_path.remove(self)
            forgotten = Forgotten()
            self.reference = weakref.ref(forgotten, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del forgotten

sys.meta_path.insert(0, Press())
signal.signal(signal.SIGINT, signal.default_int_handler)
from mygpt.__main__ import main
code = main(sys.argv[1:])
print("code", code)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "llama"))


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
@pytest.mark.parametrize(
    ("command", "options", "press"),
    [
        ("generate", ["--prompt", "Hi", "--max_new_tokens", "2"], PRESS),
        ("generate", ["--prompt", "Hi", "--max_new_tokens", "2"], PRESS_IN_A_CALLBACK),
        ("chat", [], PRESS),
        ("plan", [], PRESS),
        ("convert", ["TARGET"], PRESS),
    ],
)
def test_it_is_not_lost(model: str, tmp_path: Path, command: str, options: list[str], press: str) -> None:
    target = tmp_path / "target"
    arguments = [command, model, *(str(target) if option == "TARGET" else option for option in options)]
    done = subprocess.run(
        [sys.executable, "-c", press, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("code 130\n", "")
    assert not target.exists()

"""Programs that misbehave, in place of mygpt: what the fuzzer's own tests see it notice.

`python -m tests.fuzz.planted NAME FOLDER` runs one as a case in the folder and prints the verdict.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.fuzz.case import Case, Entry, Folder, Link, Unreadable
from tests.fuzz.child import Call, Limits, Place, run_case
from tests.fuzz.rights import adopt_orphans
from tests.fuzz.verdict import judge


class Panic(BaseException):
    """As the tokenizers' PanicException: no Exception."""


def _says(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _crash() -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def _hang() -> int:
    time.sleep(600)
    return 0


def _hang_in_a_grandchild() -> int:
    return subprocess.run(["sleep", "600"], check=False).returncode


def _spin() -> int:
    while True:
        pass


def _panic() -> int:
    raise Panic("index out of range")


def _thread_panics() -> int:
    import threading

    thread = threading.Thread(target=_panic)
    thread.start()
    thread.join()
    return 0


def _orphan() -> int:
    subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=2)
    return 0


def _outside() -> int:
    Path("../../outside/pwned").mkdir()
    return 0


def _changes_the_canary() -> int:
    Path("../../outside/canary").write_text("x")
    return 0


def _limited() -> int:
    """Ends well only where memory, files and rights are as they must be."""
    assert os.geteuid() != 0
    assert Path.home().is_relative_to(Path.cwd().parent)
    try:
        bytearray(6 * 2**30)
    except MemoryError:
        pass
    else:
        raise AssertionError("6 GiB were to be had")
    try:
        Path("unreadable").read_bytes()
    except PermissionError:
        pass
    else:
        raise AssertionError("an unreadable file was read")
    return 0


def _python() -> int:
    """As the process that renders chat templates; and nothing of root's can be written to."""
    if os.getuid() != Path("/").stat().st_uid and os.access("/", os.W_OK):
        raise AssertionError("it may write everywhere")
    return subprocess.run([sys.executable, "-c", "import mygpt"], check=False).returncode


PLANTED = {
    "answer": lambda: print("Paris") or 0,
    "refusal": lambda: _says("a note\nerror: no such file: 'x'; name another", 2),
    "not finite": lambda: _says("error: the model's logits are not finite: download them again", 1),
    "limited": _limited,
    "python": _python,
    "crash": _crash,
    "hang": _hang,
    "hang in a grandchild": _hang_in_a_grandchild,
    "spin": _spin,
    "panic": _panic,
    "thread panics": _thread_panics,
    "orphan": _orphan,
    "outside": _outside,
    "canary": _changes_the_canary,
    "unexpected": lambda: _says("error: KeyError: 'x' (MYGPT_DEBUG=1 shows where)", 1),
    "other failure": lambda: _says("error: something else", 1),
    "two lines": lambda: _says("error: a\nerror: b", 2),
    "no line": lambda: _says("usage: mygpt", 2),
    "not last": lambda: _says("error: a\nmore", 2),
    "long": lambda: _says("error: " + "a" * 5000, 2),
    "escape code": lambda: _says("error: no such file: '\x1b]0;owned\x07'", 2),
    "note with an escape code": lambda: _says("note: \x1b[2J", 0),
    "warning": lambda: _says("/x/y.py:3: UserWarning: deprecated", 0),
    "error and 0": lambda: _says("error: a", 0),
    "interrupted": lambda: 130,
}


def run(name: str, folder: Path) -> None:
    """Run one of them as a case, and print its verdict as JSON."""
    adopt_orphans()
    os.environ.update(Place(folder).environment())
    folder.chmod(0o755)
    files: dict[str, Entry] = {"zero": Link("/dev/zero"), "loop": Link("loop"), "folder": Folder()}
    if name == "limited":
        files["unreadable"] = Unreadable(b"x")
    limits = replace(Limits(), wall_s=1 if "hang" in name else 60, cpu_s=1)
    outcome = run_case(Case("planted", files, [name]), Place(folder), _call, limits)
    verdict = judge(outcome)
    print(json.dumps([verdict.word, verdict.message]))


def _call(arguments: list[str]) -> int:
    return PLANTED[arguments[0]]()


def crash() -> Call:
    """For `--call`: every case crashes."""
    return lambda arguments: _crash()


def answer() -> Call:
    """For `--call`: every case ends well."""
    return lambda arguments: 0


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))

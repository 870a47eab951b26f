"""Commands that a signal ends at any moment: no process, no part of a file, no traceback; and the next run works."""

import os
import random
import shutil
import signal
import subprocess
import sys
import termios
import time

import pexpect
import pytest

from tests.faults.conftest import LIMIT_S, REPO, Machine, catches, reset_signals
from tests.parallel.conftest import group, wait_for

pytestmark = pytest.mark.full  # minutes

SEED = 15
READS = r"\x1b\[\?2004h"  # what the editor turns on where it begins to read
COMMANDS = {
    "load": ["generate", "{model}", "--prompt", "Hi", "--max_new_tokens", 1],
    "generate": ["generate", "{model}", "--prompt", "Hi", "--max_new_tokens", 100],
    "chat": ["chat", "{model}", "--max_new_tokens", 20],
    "convert": ["convert", "{model}", "out", "--dtype", "float16"],
    "quantize": ["convert", "{model}", "out", "--quantize", "bnb.nf4"],
    "download": ["download", REPO],
    "download to a folder": ["download", REPO, "--checkpoint_dir", "checkpoints"],
    "ranks": ["generate_tp", "{model}", "--devices", 2, "--accelerator", "cpu", "--prompt", "Hi"],
}  # fmt: skip
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
QUICK = {
    ("generate", signal.SIGINT),
    ("chat", signal.SIGHUP),
    ("convert", signal.SIGTERM),
    ("download", signal.SIGTERM),
    ("download", signal.SIGKILL),
    ("ranks", signal.SIGTERM),
}
CASES = [
    pytest.param(
        command,
        number,
        id=f"{command}-{number.name}",
        marks=() if (command, number) in QUICK else pytest.mark.full,
    )
    for command in COMMANDS
    for number in (*ENDING, signal.SIGKILL)
]
# In place of a write that takes long.
SLOW = """
import sys, time
from mygpt import __main__
from mygpt.checkpoint import write
def save_file(tensors, file, metadata):
    file.write_bytes(b"half of it")
    print("writing", flush=True)
    time.sleep(600)
write.save_file = save_file
sys.exit(__main__.main())
"""
# A command that does not let go.
SWALLOWS = """
import sys, time
from mygpt import __main__
from mygpt.parallel import termination
def run(arguments):
    while True:
        try:
            print("ready", flush=True)
            time.sleep(600)
        except SystemExit:
            pass
__main__._dispatch, termination.TIDY_S = run, 0.5
sys.exit(__main__.main())
"""


def start(machine: Machine, command: str, **options: object) -> subprocess.Popen[str]:
    arguments = [str(argument).format(model=machine.model) for argument in COMMANDS[command]]
    process = machine.start(*arguments, stdin=subprocess.PIPE, **options)  # type: ignore[arg-type]
    if command == "chat":  # else it waits for the second message
        process.stdin.write("Hi\n")
        process.stdin.flush()
    return process


def works(machine: Machine, command: str) -> float:
    """The same command to its end, in a folder where it was stopped before; returns the seconds it took."""
    since = time.monotonic()
    process = start(machine, command)
    code, error = machine.ended(process)
    if code == 2 and "out exists" in error:  # it had been ready
        code = 0
    assert code == 0, error
    assert not machine.leftovers()
    if "download" in command:
        files = {file.name: file.read_bytes() for file in machine.model.iterdir()}
        folder = next(machine.folder.rglob("model.safetensors")).parent
        assert {name: (folder / name).read_bytes() for name in files} == files
        assert not list(machine.folder.rglob("*.incomplete"))
    if command in ("convert", "quantize"):
        done = machine.run("generate", "out", "--prompt", "Hi", "--max_new_tokens", 1)
        assert done.returncode == 0, done.stderr
    return time.monotonic() - since


@pytest.fixture(scope="module")
def usual() -> dict[str, float]:
    """The seconds that a command takes, once it has run."""
    return {}


@pytest.mark.parametrize("whole_group", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize(("command", "number"), CASES)
def test_at_any_moment(
    machine: Machine, usual: dict[str, float], command: str, number: signal.Signals, whole_group: bool
) -> None:
    chance = random.Random(f"{SEED} {command} {number.name} {whole_group}")
    if command not in usual:
        usual[command] = works(machine, command)
        for path in ("out", "checkpoints", "HF_HOME"):
            shutil.rmtree(machine.folder / path, ignore_errors=True)
    process = start(machine, command)
    if number != signal.SIGKILL:  # before that, Python itself has the say
        wait_for(lambda: catches(process, signal.SIGTERM), LIMIT_S)
    time.sleep(chance.uniform(0, usual[command]))
    if process.poll() is None:
        (os.killpg if whole_group else os.kill)(process.pid, number)
    code, error = machine.ended(process)
    assert "Traceback" not in error
    # Where all was done already, it comes too late or meets Python's end, which has no handlers any more.
    assert code in (0, -number, 128 + number), error
    if number != signal.SIGKILL:
        assert "error: " not in error
        assert not machine.leftovers()
    for part in machine.folder.rglob("*.incomplete"):  # what nobody can go on with is kept for a day
        os.utime(part, (time.time() - 25 * 3600,) * 2)
    works(machine, command)


@pytest.mark.parametrize("number", [*ENDING, signal.SIGKILL])
def test_a_conversion_in_the_middle_of_its_weights(machine: Machine, number: signal.Signals) -> None:
    process = machine.start("convert", machine.model, "out", launcher=["-c", SLOW])
    assert process.stdout.readline() == "writing\n"
    assert (machine.folder / ".out.partial" / "0.safetensors").is_file()
    process.send_signal(number)
    code, error = machine.ended(process)
    assert (code, error) == (-number if number == signal.SIGKILL else 128 + number, "")
    assert not (machine.folder / "out").exists()
    assert bool(machine.leftovers()) == (number == signal.SIGKILL)
    assert machine.run("convert", machine.model, "out").returncode == 0  # which clears them
    assert not machine.leftovers()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGHUP, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        pytest.param(signal.SIGINT, signal.SIGHUP, marks=pytest.mark.full),
        pytest.param(signal.SIGHUP, signal.SIGHUP, marks=pytest.mark.full),
    ],
)
def test_a_second_signal_does_not_disturb(
    machine: Machine, first: signal.Signals, second: signal.Signals
) -> None:
    """A terminal that closes sends several; an impatient user too. The first one counts."""
    process = machine.start("chat", machine.model, stdin=subprocess.PIPE)
    wait_for(lambda: catches(process, signal.SIGTERM), LIMIT_S)
    process.send_signal(first)
    process.send_signal(second)
    code, error = machine.ended(process)
    assert code in (128 + first, 128 + second)  # both may have come before Python looked
    assert "Traceback" not in error and "error: " not in error


def test_nohup_is_left_alone(machine: Machine) -> None:
    process = machine.start("chat", machine.model, stdin=subprocess.PIPE, ignored=[signal.SIGHUP])
    wait_for(lambda: catches(process, signal.SIGTERM), LIMIT_S)
    process.send_signal(signal.SIGHUP)
    out, error = process.communicate("Hi\n", timeout=LIMIT_S)
    assert process.returncode == 0, error
    assert out


def test_a_library_that_swallows_it(machine: Machine) -> None:
    process = machine.start("chat", launcher=["-c", SWALLOWS])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert machine.ended(process) == (143, "")


def test_one_rank_of_several(machine: Machine) -> None:
    """Somebody who ends a worker alone is told; the exit code is that of a rank that died."""
    arguments = [str(argument).format(model=machine.model) for argument in COMMANDS["ranks"]]
    process = machine.start(*arguments, "--max_new_tokens", 100, "--num_samples", 1000)
    wait_for(lambda: len(group(process.pid)) == 2, LIMIT_S)
    os.kill(group(process.pid)[-1], signal.SIGTERM)
    code, error = machine.ended(process)
    assert code == 1
    assert error.startswith("error: rank 1 was killed by SIGTERM; the other ranks were ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_as_before(machine: Machine, number: signal.Signals) -> None:
    """The editor has changed its settings."""
    chat = spawn(machine, "-m", "mygpt", "chat", machine.model)
    assert not termios.tcgetattr(chat.child_fd)[3] & termios.ICANON
    chat.kill(number)
    chat.expect(pexpect.EOF)
    assert termios.tcgetattr(chat.child_fd)[3] & termios.ICANON
    assert b"Traceback" not in chat.before
    chat.close()
    assert chat.exitstatus == 128 + number


def test_a_terminal_that_closes(machine: Machine) -> None:
    """Then there is nothing to write to either."""
    chat = spawn(machine, "-m", "mygpt", "chat", machine.model)
    chat.ptyproc.fileobj.close()
    assert os.waitstatus_to_exitcode(os.waitpid(chat.pid, 0)[1]) == 129


def spawn(machine: Machine, *arguments: object) -> pexpect.spawn:
    """Start Python in a terminal, and wait for chat's prompt."""
    chat = pexpect.spawn(
        sys.executable,
        [str(argument) for argument in arguments],
        env=machine.environment | {"TERM": "xterm"},
        cwd=str(machine.folder),
        timeout=LIMIT_S,
        preexec_fn=reset_signals,
    )
    chat.expect(READS)
    return chat

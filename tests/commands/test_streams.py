"""A standard stream that the shell has closed is as one from or to /dev/null."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import write_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]
STREAMS = """
import subprocess, sys
from pathlib import Path
from mygpt import __main__
__main__._open_streams()
opened = open(sys.argv[1], "w")
show = "import sys; from pathlib import Path; print(*[Path(f'/proc/self/fd/{n}').resolve() for n in range(3)],"
subprocess.run([sys.executable, "-c", show + "file=open(sys.argv[1], 'w'))", sys.argv[2]], check=True)
print(opened.fileno(), file=opened)
"""


def closing(how: str, *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {how}', "sh", sys.executable, *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("how", CLOSED)
def test_no_file_takes_the_place_of_a_stream(how: str, tmp_path: Path) -> None:
    """Neither here nor in a child: what is written to standard error would go into that file."""
    mine, child = tmp_path / "mine", tmp_path / "child"
    done = closing(how, "-c", STREAMS, mine, child)
    assert done.returncode == 0
    assert int(mine.read_text()) > 2
    numbers = [number for number, name in enumerate(["<&-", ">&-", "2>&-"]) if name in how.split()]
    found = child.read_text().split()
    assert [found[number] for number in numbers] == ["/dev/null"] * len(numbers)


@pytest.mark.parametrize("how", CLOSED)
@pytest.mark.parametrize(
    "command", ["generate", "chat", "plan", "convert", "list", "completion", "--help", "rm"]
)
def test_a_closed_stream(how: str, command: str, tmp_path: Path) -> None:
    arguments = {
        "generate": [tmp_path / "model", "--prompt", "Hi", "--max_new_tokens", "2"],
        "chat": [tmp_path / "model"],
        "plan": [tmp_path / "model"],
        "convert": [tmp_path / "model", tmp_path / "target"],
        "completion": ["bash"],
        "rm": ["nothing-like-this"],
    }.get(command, [])
    write_model(tmp_path / "model")
    done = closing(how, "-m", "mygpt", command, *arguments)
    assert done.returncode == (2 if command == "rm" else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert (command == "rm") == done.stderr.startswith("error: ") or "2>&-" in how

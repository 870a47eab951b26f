"""`mygpt completion`: the shells complete commands, options and choices."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mygpt.__main__ import COMMANDS
from mygpt.commands.completion import script

bash = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    files = {shell: folder / shell for shell in ("bash", "zsh", "fish")}
    for shell, file in files.items():
        file.write_text(script(shell))
    return files


@bash
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mygpt gen", "generate generate_sequentially generate_tp"),
        ("mygpt ", " ".join(sorted(COMMANDS))),
        ("mygpt generate --temp", "--temperature"),
        ("mygpt generate repo --quantize bnb.nf4", "bnb.nf4 bnb.nf4-dq"),
        ("mygpt plan --json --comm", "--command"),
        ("mygpt plan --command generate_", "generate_sequentially generate_tp"),
        ("mygpt chat --multiline t", "true"),
        ("mygpt completion z", "zsh"),
        ("mygpt generate some-mod", "some-model"),
        ("mygpt generate --config some-mod", "some-model"),
    ],
)
def test_bash(scripts: dict[str, Path], tmp_path: Path, line: str, expected: str) -> None:
    """As bash itself asks for completions, with the script read as the documented line does."""
    (tmp_path / "some-model").mkdir()
    words = line.split(" ")
    ask = f"""
        eval "$(cat {scripts["bash"]})"
        COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}
        $(complete -p mygpt | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == sorted(expected.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_holds_every_command_and_parses(scripts: dict[str, Path], shell: str) -> None:
    text = scripts[shell].read_text()
    assert [name for name in (*COMMANDS, "max_new_tokens", "bnb.nf4-dq") if name not in text] == []
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(scripts[shell])], check=True)

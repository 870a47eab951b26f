"""`mygpt chat` with SmolLM2 in a real pseudo-terminal, as a person uses it."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models import edit_json, write_model

pexpect = pytest.importorskip("pexpect")
termios = pytest.importorskip("termios", reason="pseudo-terminals are POSIX's")

TIMEOUT_S = 60
CORES = os.cpu_count() or 1
# The editor turns bracketed paste on where it begins to read, and off where it has given the terminal back.
READS, READ = r"\x1b\[\?2004h", r"\x1b\[\?2004l"
ENTER, ALT_ENTER = "\r", "\x1b\r"


class Chat:
    """A running `mygpt chat`."""

    def __init__(self, environment: dict[str, str], *options: str) -> None:
        command = ["-m", "mygpt", "chat", "--temperature", "0", "--precision", "32-true", *options]
        self.process = pexpect.spawn(
            sys.executable,
            command,
            env=environment,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            dimensions=(40, 120),
        )
        self.ready()

    def expect(self, *patterns: str) -> None:
        for pattern in patterns:
            self.process.expect(pattern)

    def ready(self) -> str:
        """Wait for the prompt; returns what came before it, without the terminal's control sequences."""
        self.expect(READS)
        return re.sub(r"\x1b\[[?\d;]*[A-Za-z]|[\r\x08]", "", self.process.before)

    def send(self, keys: str) -> None:
        """Press keys that make the editor accept a text."""
        self.process.send(keys)
        self.expect(READ)

    def interrupt(self, typed: str = "") -> None:
        """Type a text and press Ctrl-C, at any time."""
        self.process.send(typed)
        self.process.sendintr()

    def type(self, text: str) -> str:
        """Type a line; returns what is on the screen up to the next prompt."""
        self.send(text + ENTER)
        return self.ready()

    def messages(self, folder: Path) -> list[dict[str, Any]]:
        """The conversation, by what `/save` writes."""
        file = folder / "messages.json"
        assert "saved" in self.type(f"/save {file}")
        messages: list[dict[str, Any]] = json.loads(file.read_text())["messages"]
        file.unlink()
        return messages

    def ends(self) -> int | None:
        """The exit code, once the process has ended."""
        self.process.expect(pexpect.EOF)
        self.process.close()
        code: int | None = self.process.exitstatus
        return code


@pytest.fixture(scope="module")
def environment(smollm2_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a user without the Hub, whose folder for state is empty."""
    own = {
        "MYGPT_CACHE": str(smollm2_cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(smollm2_cache / "empty"),
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "PROMPT_TOOLKIT_NO_CPR": "1",  # pexpect answers no question about where the cursor is
        "TERM": "xterm-256color",
    }
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "MYGPT_DEBUG")
    }
    return environment | own


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model whose answers go on for minutes."""
    folder = write_model(tmp_path_factory.mktemp("endless") / "model", max_position_embeddings=100_000)
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    return str(folder)


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., Chat]]:
    """Start `mygpt chat`; whatever a test leaves running is ended."""
    chats = []

    def start(*options: str, **more: str) -> Chat:
        chats.append(Chat(environment | more, *options))
        return chats[-1]

    yield start
    for chat in chats:
        chat.process.close(force=True)


Start = Callable[..., Chat]


def test_a_conversation(start: Start, tmp_path: Path) -> None:
    chat = start("--max_new_tokens", "24")
    greeting = chat.process.before
    assert "cpu 32-true | /help lists the commands" in greeting

    # It remembers.
    chat.type("My name is Ada.")
    assert "0 of them reused" in chat.type("/stats")
    shown = chat.type("What is my name?")
    messages = chat.messages(tmp_path)
    assert [m["content"] for m in messages[::2]] == ["My name is Ada.", "What is my name?"]
    assert messages[3]["content"].split()[0] in shown
    prompt_tokens, reused = map(
        int,
        re.search(r"(\d+) prompt tokens, (\d+) of them reused", chat.type("/stats")).groups(),  # type: ignore[union-attr]
    )
    assert reused > 35  # all of the first turn
    assert prompt_tokens - reused < 30

    # Undo, and the same again: the same answer.
    assert "taken back: What is my name?" in chat.type("/undo")
    assert chat.messages(tmp_path) == messages[:2]
    chat.type("What is my name?")
    assert chat.messages(tmp_path) == messages

    # Another answer in place of the last.
    chat.type("/set temperature 2")
    assert "another answer to: What is my name?" in chat.type("/regen")
    other = chat.messages(tmp_path)
    assert other[:3] == messages[:3]
    assert other[3] != messages[3]

    # Save, lose, load.
    file = tmp_path / "ada.json"
    assert "4 messages saved" in chat.type(f"/save {file}")
    chat.type("/clear")
    assert chat.messages(tmp_path) == []
    assert "4 messages loaded" in chat.type(f"/load {file}")
    assert chat.messages(tmp_path) == other

    # What is wrong costs nothing.
    assert "error: there is no command /foo; /help lists them" in chat.type("/foo")
    assert "error: /nowhere/x.json: cannot be written" in chat.type("/save /nowhere/x.json")
    assert "error: temperature must be a number, it is 'hot'" in chat.type("/set temperature hot")
    assert chat.messages(tmp_path) == other

    # Ctrl-C clears the line, Ctrl-D ends.
    chat.process.send("half a line")
    chat.expect("half a line")
    chat.process.sendintr()
    chat.expect(READ, "Ctrl-C again at an empty line, or Ctrl-D, ends the session", READS)
    chat.process.sendeof()
    assert chat.ends() == 0


def test_ctrl_c_in_an_answer_and_in_the_prefill(start: Start, tmp_path: Path) -> None:
    chat = start("--markdown", "false")
    chat.send("Write a very long story about the sea." + ENTER)
    chat.expect("[A-Z][a-z]+ [a-z]+ [a-z]+ ")  # some words of the answer
    chat.interrupt(typed="/stats")  # neither stands in the answer
    chat.expect("note: stopped; the conversation holds what was said so far")
    assert "^C" not in chat.process.before
    assert "/stats" not in chat.process.before
    chat.expect(READS)
    messages = chat.messages(tmp_path)
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[1]["content"]

    # A history of 6,000 tokens takes seconds.
    file = tmp_path / "long.json"
    long = [{"role": "user", "content": "word " * 6000}, {"role": "assistant", "content": "Yes."}]
    file.write_text(json.dumps({"messages": long}))
    assert "2 messages loaded" in chat.type(f"/load {file}")
    chat.send("Go on." + ENTER)
    chat.interrupt()
    chat.expect("note: stopped before the answer began", READS)
    assert chat.messages(tmp_path) == long

    # The session goes on, and Ctrl-C twice at the prompt ends it.
    chat.type("/clear")
    chat.type("/set max_new_tokens 4")
    chat.type("Go on.")
    assert len(chat.messages(tmp_path)) == 2
    chat.process.sendintr()
    chat.expect("ends the session", READS)
    chat.process.sendintr()
    assert chat.ends() == 0


ENDLESS = ("--markdown", "false", "--temperature", "1", "--repetition_guard", "false", "--accelerator", "cpu")


def test_enter_and_ctrl_c_at_once(start: Start, endless: str, tmp_path: Path) -> None:
    """Both keys are there before the editor has given the terminal back, and no answer goes on."""
    chat = start(endless, *ENDLESS)
    for _ in range(5):
        chat.process.send("Hi" + ENTER + "\x03")
        chat.expect("note: stopped before the answer began|Ctrl-C again at an empty line", READS)
        assert chat.messages(tmp_path) == []
    chat.process.send("exit" + ENTER)
    assert chat.ends() == 0


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--devices", "2"), marks=pytest.mark.full)], ids=["one device", "two ranks"]
)
def test_ctrl_c_under_load(options: tuple[str, ...], start: Start, endless: str, tmp_path: Path) -> None:
    """At any moment after Enter, and again while the first is handled; each time the prompt is back."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * CORES)]
    delays = random.Random(0)
    try:
        chat = start(endless, *ENDLESS, *options)
        for number in range(12):
            chat.send("Hi" + ENTER)
            time.sleep(delays.choice([0.0, 0.001, 0.01, 0.1, 0.3]))
            for _ in range(1 + number % 2):
                chat.interrupt()
            chat.expect("note: stopped[^\n]*\n", READS)
            # The second may come at the prompt, which is then drawn again.
            chat.process.send(f"/system {number}" + ENTER)
            chat.expect(f"system message: {number}\r\n", READS)
        messages = chat.messages(tmp_path)
        assert [m["role"] for m in messages[1:]] == ["user", "assistant"] * (len(messages) // 2)
        if options:
            assert "error: /model does not work where several processes" in chat.type("/model x")
        chat.process.sendeof()
        assert chat.ends() == 0
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_an_empty_line_does_nothing(start: Start, endless: str, tmp_path: Path) -> None:
    chat = start(endless, *ENDLESS)
    assert chat.type("").strip() == chat.type("  ").strip()
    assert chat.messages(tmp_path) == []
    chat.process.send("/bye" + ENTER)
    assert chat.ends() == 0


def test_what_is_typed_between_triple_quotes_is_one_message(
    start: Start, endless: str, tmp_path: Path
) -> None:
    chat = start(endless, *ENDLESS, "--max_new_tokens", "2")
    for text in ('"""one' + ENTER + "quit" + ENTER + "/x" + '"""' + ENTER, '"""two"""' + ENTER):
        chat.send(text)
        chat.ready()
    said = [m["content"] for m in chat.messages(tmp_path) if m["role"] == "user"]
    assert said == ["one\nquit\n/x", "two"]


def test_save_asks_and_tab_completes_files(start: Start, endless: str, tmp_path: Path) -> None:
    chat = start(endless, *ENDLESS, "--max_new_tokens", "2")
    file = tmp_path / "kept conversation.json"
    file.write_text("old")
    for keys, says in (
        ("n" + ENTER, "stays as it is"),
        (ENTER, "stays as it is"),
        ("\x03", "stays as it is"),
        ("\x04", "stays as it is"),
        ("y" + ENTER, "0 messages saved to"),
    ):
        assert file.read_text() == "old"
        chat.process.send(f"/save {tmp_path}/kep")
        chat.expect("kept conversation.json")  # the menu
        chat.process.send("\t" + ENTER)
        chat.expect(r"overwrite .*kept conversation.json\? \[y/N\]")
        chat.process.send(keys)
        chat.expect(says, READS)
    assert json.loads(file.read_text())["messages"] == []
    chat.process.send(f"/read {tmp_path}/kep")
    chat.expect("kept conversation.json")
    assert "begins with kept conversation.json" in chat.type("\t")
    chat.process.sendeof()
    assert chat.ends() == 0


@pytest.mark.full
def test_messages_of_several_lines(start: Start, tmp_path: Path) -> None:
    chat = start("--max_new_tokens", "2", "--multiline", "true")
    for keys in ("one" + ENTER + "/two" + ENTER + "!submit" + ENTER, "three" + ENTER + "four" + ALT_ENTER):
        chat.send(keys)
        assert "the answer was cut" in chat.ready()
    assert "mode is off" in chat.type("/multiline")
    for keys in ("five" + ALT_ENTER + "six" + ENTER, "\x1b[200~seven\neight\x1b[201~" + ENTER):
        chat.send(keys)
        assert "the answer was cut" in chat.ready()
    said = [m["content"] for m in chat.messages(tmp_path) if m["role"] == "user"]
    assert said == ["one\n/two", "three\nfour", "five\nsix", "seven\neight"]
    chat.type("/multiline")
    chat.process.send("quit" + ENTER)
    assert chat.ends() == 0


@pytest.mark.full
def test_the_history_and_completion(start: Start, tmp_path: Path) -> None:
    """What was typed in one run comes back in the next, and Tab completes a command."""
    state = {"XDG_STATE_HOME": str(tmp_path)}
    chat = start(**state)
    assert "there is no system message" in chat.type("/system")
    chat.process.send("!quit" + ENTER)
    assert chat.ends() == 0
    assert "/system" in (tmp_path / "mygpt" / "chat_history").read_text()
    chat = start(**state)
    assert "there is no system message" in chat.type("\x1b[A\x1b[A")  # twice up
    chat.process.send("/multi")
    chat.expect("/multiline")  # the menu
    assert "multi-line mode is on" in chat.type("\t")
    chat.process.send("/exit" + ENTER)
    assert chat.ends() == 0


@pytest.mark.parametrize(
    "options", [(), pytest.param(("--devices", "2"), marks=pytest.mark.full)], ids=["one device", "two ranks"]
)
def test_ctrl_c_in_generate_leaves_a_new_line(
    options: tuple[str, ...], endless: str, environment: dict[str, str]
) -> None:
    command = ["-m", "mygpt", "generate", endless, "--prompt", "Hi", "--max_new_tokens", "90000", *options]
    process = pexpect.spawn(
        sys.executable, [*command, "--accelerator", "cpu"], env=environment, timeout=TIMEOUT_S
    )
    process.expect(b"[A-Za-z]")
    process.sendintr()
    written: bytes = process.read()
    process.close()
    assert process.exitstatus == 130
    assert written.endswith(b"\r\n")


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n"
)


def test_markdown_reasoning_and_a_template_that_raises(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    """The model's template starts each answer in reasoning, and is broken on purpose."""
    model = tmp_path / "model"
    shutil.copytree(
        Path(environment["MYGPT_CACHE"], "SmolLM2-135M-Instruct"), model, copy_function=os.symlink
    )
    refusal = "{% if messages[-1].content == 'bad' %}{{ raise_exception('no such talk') }}{% endif %}"
    (model / "chat_template.jinja").unlink(missing_ok=True)
    (model / "chat_template.jinja").write_text(refusal + THINKING)
    chat = start(str(model), "--max_new_tokens", "8")
    chat.send("What is the capital of France?" + ENTER)
    chat.expect(r"\x1b\[2m\w+", READS)  # dim
    assert "error: the chat template refuses these messages: no such talk" in chat.type("bad")
    assert [m["role"] for m in chat.messages(tmp_path)] == ["user", "assistant"]
    chat.process.sendeof()
    assert chat.ends() == 0


def test_piped_input_is_a_script(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "mygpt", "chat", "--temperature", "0", "--precision", "32-true"]
    lines = "What is the capital of France?\n\n/foo\nAnd of Italy?\n"
    done = subprocess.run(
        command, env=environment, input=lines, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    answers = done.stdout.split("\n")
    assert answers[0] == "The capital of France is Paris."
    assert len(answers) >= 3
    assert "\x1b" not in done.stdout + done.stderr
    assert "error: there is no command /foo" in done.stderr
    assert done.stderr.count("tokens/s") == 2
    assert done.returncode == 2

"""The session of `mygpt chat` without a terminal: commands, notes, displays, scripts."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.history import FileHistory, InMemoryHistory

from mygpt import LLM
from mygpt.__main__ import main
from mygpt.chat.dispatch import dispatch
from mygpt.chat.display import DIM, NORMAL, choose_display, note
from mygpt.chat.reasoning import ReasoningParser
from mygpt.chat.session import Session
from mygpt.chat.slash_commands import COMMANDS, SUBMIT
from mygpt.chat.terminal import _open_history, history_file
from mygpt.engine.repetition import MIN_SPAN
from mygpt.engine.sampler import Sampler
from mygpt.errors import ContextOverflowError, InputError
from tests.models import CONTEXT, edit_json, write_model

STATISTICS = (
    r"\d+ prompt tokens, \d+ of them reused, first token after \d+\.\d\d s \| "
    r"\d+ new tokens, \d+\.\d tokens/s \| \d+ tokens left \| seed \d+"
)

CUT = "note: the answer was cut after 5 tokens (max_new_tokens)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "llama", max_position_embeddings=1024)


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return load(folder)


def load(folder: Path) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


class Repl(Session):
    """A session whose answers and notes are kept."""

    def __init__(self, llm: LLM, interactive: bool = True, **options: Any) -> None:
        conversation = llm.chat(**{"temperature": 0.0, "max_new_tokens": 5, **options})
        super().__init__(conversation, self._keep, self._hear, interactive=interactive)
        self.answers: list[str] = []
        self.notes: list[str] = []

    def _keep(self, pieces: Iterator[str], starts_in_reasoning: Callable[[], bool]) -> None:
        self.answers.append("".join(pieces))

    def _hear(self, text: str) -> None:
        self.notes.extend(text.split("\n"))

    def does(self, text: str) -> str:
        """The notes that a text leads to."""
        del self.notes[:]
        dispatch(self, text)
        return "\n".join(self.notes)

    @property
    def said(self) -> list[str]:
        return [m["content"] for m in self.conversation.messages if m["role"] == "user"]


@pytest.fixture
def repl(llm: LLM) -> Repl:
    return Repl(llm)


# Commands


def test_help_lists_every_command(repl: Repl) -> None:
    said = repl.does("/help")
    assert all(command.usage in said and command.summary in said for command in COMMANDS.values())
    assert all(word in said for word in ("/bye", "/quit", "exit", "quit", '"""', "//", SUBMIT))
    assert max(map(len, repl.notes)) <= 80
    assert repl.does("/?") == said
    assert not repl.conversation.messages


@pytest.mark.parametrize(
    "text", ["/exit", "!quit", "!exit", " !exit ", "/bye", "/quit", "exit", "quit", "quit "]
)
def test_the_ways_to_end(repl: Repl, text: str) -> None:
    dispatch(repl, text)
    assert repl.done
    assert repl.answers == []


@pytest.mark.parametrize(
    ("text", "sent"),
    [("Hi", "Hi"), ("//etc/fstab", "/etc/fstab"), (" /x", " /x"), ("!quit now", "!quit now")]
    + [("exit now", "exit now"), ("Exit", "Exit"), ("bye", "bye")]
    + [('"""a\n\nb"""', "a\n\nb"), ('"""\n/exit\n"""', "/exit"), (' """a"""  ', "a"), ('"""a\nb', "a\nb")]
    + [(text, text) for text in ('a """b"""', '"""a""" b', '"""a"""\nb\n"""c"""')],
)
def test_what_is_sent(repl: Repl, text: str, sent: str) -> None:
    assert repl.does(text) == CUT
    assert repl.said == [sent]
    assert repl.answers == [repl.conversation.messages[-1]["content"]]


@pytest.mark.parametrize("text", ["/foo", "/foo bar", "/", "/Help", "/foo\nbar"])
def test_a_command_that_there_is_not(repl: Repl, text: str) -> None:
    said = repl.does(text)
    name = text.split()[0]
    assert said == f"error: there is no command {name}; /help lists them (write /{name} to send it as a text)"
    assert repl.conversation.messages == []
    assert repl.failed == 1


def test_clear_and_system(repl: Repl) -> None:
    assert repl.does("/system") == "there is no system message"
    dispatch(repl, "Hi")
    assert repl.does("/system Be brief,\nand kind") == "system message: Be brief,\nand kind"
    assert repl.said == ["Hi"]
    assert repl.does("/system") == "system message: Be brief,\nand kind"
    assert "forgotten" in repl.does("/clear")
    assert repl.conversation.messages == [{"role": "system", "content": "Be brief,\nand kind"}]
    assert repl.does('/system ""') == "there is no system message"
    assert repl.conversation.messages == []


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("/set temperature 0.5", "temperature", 0.5),
        ("/set temperature 1", "temperature", 1),
        ("/set temperature 1e-3", "temperature", 0.001),
        ("/set  top_k  7 ", "top_k", 7),
        ("/set max_new_tokens null", "max_new_tokens", None),
        ("/set seed 5", "seed", 5),
        ("/set stop ['#', \"a b\"]", "stop", ["#", "a b"]),
        ("/set stop '[\"#\"]'", "stop", ["#"]),  # as on the command line
        ("/set on_overflow error", "on_overflow", "error"),
    ],
)
def test_set(repl: Repl, text: str, name: str, value: Any) -> None:
    assert repl.does(text).startswith(f"{name}: ")
    assert repl.conversation.settings[name] == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/set temperature hot", "temperature must be a number, it is 'hot'"),
        ("/set temperature -1", "temperature must be 0 or above, it is -1"),
        ("/set temperature nan", "temperature must be 0 or above, it is nan"),
        ("/set temperature true", "temperature must be a number, it is True"),
        ("/set top_k 1.5", "top_k must be a whole number, it is 1.5"),
        ("/set stop null", "stop must be a list of texts"),
        ("/set stop [", "the value is not YAML: ["),
        ("/set on_overflow panic", "on_overflow must be one of drop, error"),
        ("/set foo 1", "there is no setting 'foo'; there are think, "),
        ("/set temperature", "write /set NAME VALUE"),
        ("/undo 3", "/undo takes nothing after it, there is '3'"),
        ("/undo", "there is no turn to take back"),
        ("/regen", "there is no answer yet to replace"),
        ("/save", "write /save FILE"),
        ("/save /nowhere/at/all.json", "/nowhere/at/all.json: cannot be written"),
        ("/save .", ".: cannot be written"),
        ("/load", "write /load FILE"),
        ("/load /nowhere.json", "/nowhere.json: cannot be read"),
        (f"/load {'x' * 300}", f"{'x' * 300}: cannot be used (File name too long)"),
        ("/save a\0b", "a\\u0000b: cannot be used (embedded null byte)"),
        (f"/set seed {'9' * 5000}", "the value is not YAML: 999"),
        ("/set top_k [&a 1, *a]", "the value is not YAML"),
        ("/load ~nobody_of_this_name/x", "~nobody_of_this_name/x: there is no such user's folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_costs_nothing(repl: Repl, text: str, says: str) -> None:
    before = repl.conversation.settings
    said = repl.does(text)
    assert said.startswith(f"error: {says}")
    assert len(repl.notes) == 1
    assert (repl.conversation.settings, repl.conversation.messages) == (before, [])
    dispatch(repl, "Hi")
    assert repl.said == ["Hi"]


@pytest.mark.parametrize("text", ["/show", "/set"])
def test_show(repl: Repl, text: str) -> None:
    dispatch(repl, '/set stop ["#"]')
    said = repl.does(text)
    for line in ("temperature: 0.0", "max_new_tokens: 5", "seed: null", "stop: ['#']", "on_overflow: drop"):
        assert line in repl.notes
    assert said.endswith("there is no system message")


def test_regen_and_undo_say_what_they_do(llm: LLM) -> None:
    repl = Repl(llm, temperature=0.8, seed=1)
    dispatch(repl, "Hi\nthere " + "x" * 100)
    assert repl.does("/regen") == f"another answer to: Hi there {'x' * 50}…\n{CUT}"
    assert repl.answers[0] != repl.answers[1] == repl.conversation.messages[-1]["content"]
    assert repl.does("/undo").startswith("taken back: Hi there xxx")
    assert repl.conversation.messages == []


def test_save_and_load(repl: Repl, llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    dispatch(repl, "Hi")
    assert repl.does("/save ~/my file.json") == "2 messages saved to ~/my file.json"
    other = Repl(llm)
    assert other.does("/load ~/my file.json") == "2 messages loaded from ~/my file.json"
    assert other.conversation.messages == repl.conversation.messages


def test_save_asks_before_it_overwrites(repl: Repl, tmp_path: Path) -> None:
    file, asked = tmp_path / "x.json", []

    def confirm(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    repl.confirm = confirm
    file.write_text("old")
    assert repl.does(f"/save {file}") == f"{file} stays as it is"
    assert file.read_text() == "old"
    assert repl.does(f"/save {file}") == f"0 messages saved to {file}"
    assert asked == [f"overwrite {file}?"] * 2
    assert json.loads(file.read_text())["messages"] == []
    assert repl.does(f"/save {tmp_path}/y.json").startswith("0 messages saved")
    assert len(asked) == 2


def test_a_script_overwrites_what_it_wrote_itself_only(repl: Repl, tmp_path: Path) -> None:
    file, own = tmp_path / "x.json", tmp_path / "own.json"
    file.write_text("old")
    assert repl.does(f"/save {file}") == (
        f"error: {file} is there already and is not overwritten; name another file, or remove it"
    )
    assert file.read_text() == "old"
    assert repl.does(f"/save {own}") == f"0 messages saved to {own}"
    dispatch(repl, "Hi")
    assert repl.does(f"/save {own}") == f"2 messages saved to {own}"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such file")
def test_what_is_no_file_is_never_replaced_by_one(repl: Repl, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    repl.confirm = lambda _: True
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for file in (pipe, link):
        for command in ("/save", "/read", "/load"):
            assert re.match(rf"error: {file}.*\bno (regular )?file", repl.does(f"{command} {file}"))
    assert pipe.is_fifo()
    assert link.is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="may not make links")
def test_save_writes_what_a_link_leads_to(repl: Repl, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    file, link, new, circle = there / "x.json", tmp_path / "link", tmp_path / "new", tmp_path / "circle"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    new.symlink_to(there / "new.json")
    circle.symlink_to(circle)
    repl.confirm = lambda _: True
    for name in (link, new):
        assert repl.does(f"/save {name}") == f"0 messages saved to {name}"
        assert name.is_symlink()
        assert json.loads(name.read_text())["messages"] == []
    assert file.stat().st_mode & 0o777 == 0o640
    assert repl.does(f"/save {circle}").startswith(f"error: {circle}: cannot be written (")
    assert circle.is_symlink()
    assert sorted(path.name for path in there.iterdir()) == ["new.json", "x.json"]


def test_read_puts_files_before_the_next_message(repl: Repl, tmp_path: Path) -> None:
    first, second = tmp_path / "my notes.txt", tmp_path / "x.md"
    first.write_bytes("\ufeffGrüße\n\nend\n".encode())
    second.write_text("a ```\ncode\n``` b")
    assert repl.does("/read") == "no file waits for the next message"
    assert repl.does(f"/read {first}") == "your next message begins with my notes.txt (13 tokens)"
    assert repl.does(f"/read {second}") == (
        "your next message begins with my notes.txt (13 tokens), x.md (16 tokens)"
    )
    assert repl.does("Why?") == CUT
    assert repl.said == [
        "my notes.txt:\n```\nGrüße\n\nend\n```\n\nx.md:\n````\na ```\ncode\n``` b\n````\n\nWhy?"
    ]
    dispatch(repl, "And?")
    assert repl.said[1:] == ["And?"]


def test_read_waits_until_a_message_is_sent(repl: Repl, tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("a" * 1000)
    repl.does(f"/read {file}")
    assert repl.does("x" * 100).startswith("error: the message does not fit")
    assert repl.does("/read") == "your next message begins with x.txt (1000 tokens)"
    assert repl.does('/read ""') == "no file waits for the next message"
    dispatch(repl, "Hi")
    assert repl.said == ["Hi"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", " is empty"),
        (b" \n", " is empty"),
        (b"\xff\xfe", " is no text in UTF-8"),
        (b"GGUF\0\0", " is no text: it holds a zero byte"),
        (b"x" * 1024, "its 1024 tokens do not fit the model's context of 1024; take a part of it"),
        (b"x" * 2_000_000, "2.0 MB do not fit the model's context of 1024 tokens; take a part of it"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_that_cannot_be_sent(repl: Repl, content: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    if content is not None:
        file.write_bytes(content)
    said = repl.does(f"/read {file}")
    assert (said.startswith(f"error: {file}"), said.endswith(says), len(repl.notes)) == (True, True, 1)
    assert repl.does(f"/read {tmp_path}") == f"error: {tmp_path} is a folder; name a text file in it"
    assert repl.attachments == []


def test_stats(repl: Repl) -> None:
    assert repl.does("/stats") == "nothing was said yet"
    dispatch(repl, "Hi")
    assert re.fullmatch(STATISTICS, repl.does("/stats"))


def test_multiline_toggles(repl: Repl) -> None:
    assert "on" in repl.does("/multiline")
    assert repl.multiline
    assert "off" in repl.does("/multiline")
    assert not repl.multiline


# Notes


def test_a_script_gets_statistics_a_terminal_does_not(llm: LLM) -> None:
    assert re.fullmatch(f"{re.escape(CUT)}\n{STATISTICS}", Repl(llm, interactive=False).does("Hi"))
    assert Repl(llm).does("Hi") == CUT


def test_an_answer_that_was_cut_says_so(repl: Repl) -> None:
    assert repl.does("Hi") == CUT
    assert repl.does("/set max_new_tokens null") == "max_new_tokens: null"
    left = repl.conversation.last.context_left if repl.conversation.last else 0
    said = repl.does("x" * (left - 300))
    assert re.search(r"note: the answer was cut after \d+ tokens \(the context is full\)", said)


def looping(monkeypatch: pytest.MonkeyPatch, block: list[int]) -> None:
    """Every answer is the block again and again."""

    def sample(_: Sampler, sequences: Sequence[Any], *__: object) -> list[int]:
        return [block[len(sequence.new_ids) % len(block)] for sequence in sequences]

    monkeypatch.setattr(Sampler, "sample", sample)


def test_an_answer_that_repeats_itself_is_ended(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    looping(monkeypatch, list(range(40, 60)))
    repl = Repl(llm, max_new_tokens=400)
    said = repl.does("Hi")
    assert said.startswith(
        "note: the answer was ended because it repeats itself; '/set repetition_penalty 1.1'"
    )
    turn = repl.conversation.last
    assert turn is not None
    assert (turn.finish_reason, turn.new_tokens) == ("repetition", MIN_SPAN)
    assert len(repl.answers[0]) == MIN_SPAN == len(repl.conversation.messages[1]["content"])
    assert repl.does("/set repetition_guard false") == "repetition_guard: false"
    assert repl.does("/regen").endswith("note: the answer was cut after 400 tokens (max_new_tokens)")
    off = Repl(llm, max_new_tokens=400, repetition_guard=False)
    assert "400 tokens" in off.does("Hi")


def test_after_a_repetition_the_cache_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows too, whose slots a step that was cut short may have overwritten."""
    window = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 16}
    llm = load(write_model(tmp_path / "model", max_position_embeddings=1024, **window))
    repl = Repl(llm)
    with monkeypatch.context() as patch:
        looping(patch, list(range(40, 60)))
        repl.does("/set max_new_tokens 400")
        assert "repeats itself" in repl.does("Hi")
    repl.does("/set max_new_tokens 12")
    dispatch(repl, "b")
    expected = llm.generate(repl.conversation.messages[:-1], temperature=0.0, max_new_tokens=12)
    assert repl.conversation.messages[-1]["content"] == expected


def test_the_contexts_end_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mygpt.loading.load.LoadedModel.vocab_size", 94
    )  # printable ASCII: a byte a token, there and back
    repl = Repl(load(write_model(tmp_path / "model")))
    assert "left" not in repl.does("x" * 30)
    assert f"of the context's {CONTEXT} tokens are left" in repl.does("y" * 25)
    assert repl.conversation.last is not None
    assert repl.conversation.last.context_left == CONTEXT - 2 * (21 + 5) - 55
    said = repl.does("z" * 30)
    assert "note: the context was full: the model no longer sees the 4 oldest messages" in said


def test_on_overflow_error_ends_the_session(tmp_path: Path) -> None:
    repl = Repl(load(write_model(tmp_path / "model")), on_overflow="error")
    dispatch(repl, "x" * 60)
    with pytest.raises(ContextOverflowError):
        dispatch(repl, "y" * 60)


@pytest.mark.parametrize("interactive", [True, False])
def test_ctrl_c_in_an_answer(llm: LLM, interactive: bool) -> None:
    repl = Repl(llm, interactive)

    def display(pieces: Iterator[str], starts_in_reasoning: Callable[[], bool]) -> None:
        repl.answers.append(next(pieces))
        raise KeyboardInterrupt

    repl._display = display
    if not interactive:
        with pytest.raises(KeyboardInterrupt):
            dispatch(repl, "Hi")
        return
    assert repl.does("Hi") == "note: stopped; the conversation holds what was said so far"
    assert repl.conversation.messages[-1]["content"] == repl.answers[0]
    old = list(repl.conversation.messages)

    def display_nothing(pieces: Iterator[str], starts_in_reasoning: Callable[[], bool]) -> None:
        raise KeyboardInterrupt

    repl._display = display_nothing
    said = "note: stopped before the answer began; nothing was added to the conversation"
    for text in ("more", "/regen"):
        assert repl.does(text).split("\n")[-1] == said
        assert repl.conversation.messages == old


def test_an_error_that_no_one_foresaw_costs_no_conversation(
    repl: Repl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MYGPT_DEBUG", raising=False)
    dispatch(repl, "Hi")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate\n7 GiB")

    with monkeypatch.context() as patch:
        patch.setattr("mygpt.chat.conversation.keep_common_prefix", full)
        assert repl.does("again").startswith("error: out of memory")
    assert repl.said == ["Hi"]
    dispatch(repl, "again")
    assert repl.said == ["Hi", "again"]


# Displays


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "10")


THOUGHT = ["<thi", "nk>So", " be it</th", "ink>\n\n**Yes**", ", <think> is a tag"]


def show(
    out: io.StringIO, pieces: list[str], markdown: bool | None = None, starts_in_reasoning: bool = False
) -> str:
    choose_display(markdown, out)(iter(pieces), lambda: starts_in_reasoning)
    return out.getvalue()


def test_what_is_no_terminal_gets_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(io.StringIO(), THOUGHT) == "".join(THOUGHT) + "\n"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert show(Terminal(), THOUGHT) == "".join(THOUGHT) + "\n"
            with pytest.raises(InputError, match="--markdown true needs a terminal"):
                choose_display(True, Terminal())


def test_a_terminal_without_markdown_dims_reasoning() -> None:
    expected = f"{DIM}So{NORMAL}{DIM} be it{NORMAL}\n\n**Yes**, <think> is a tag\n"
    assert show(Terminal(), THOUGHT, markdown=False) == expected
    opened = show(Terminal(), ["So</think>", "Yes"], markdown=False, starts_in_reasoning=True)
    assert opened == f"{DIM}So{NORMAL}Yes\n"


def test_markdown_is_rendered() -> None:
    shown = show(Terminal(), THOUGHT)
    assert f"{DIM}So be it" in shown
    assert "\x1b[1mYes\x1b[0m" in shown
    assert "**Yes**, " not in shown.split("\x1b[2K")[-1]


def test_lines_stay_lines_and_html_is_text() -> None:
    shown = play(
        show(Terminal(), ["Roses are red,\nviolets a", "re blue.\n\nA List<int>, a <br> and ~~no~~ **end**"])
    )
    assert [line for line in shown if line] == [
        "Roses are red,",
        "violets are blue.",
        "A List<int>, a <br> and no end",
    ]


def test_lines_are_no_longer_than_their_text() -> None:
    """Spaces up to the width would wrap, and shift all, in a terminal made narrower."""
    shown = show(Terminal(), ["Some **words**\nand\n\n1. an item\n\n```\ncode\n```\n\nend"])
    assert not re.search(r"(words|and|item|end)\S* +\r", shown)


def test_a_long_answer_is_whole_on_the_terminal() -> None:
    """Each line once, in order, whatever was redrawn in between: played back as a terminal does."""
    lines = [f"line {n}" for n in range(40)]
    shown = show(Terminal(), [f"{line}\n\n" for line in lines])
    assert [line for line in play(shown) if line] == lines


CODE = ["def f(x):", "    if x:", "        return [x,", "                2]", "", "    return None"]


@pytest.mark.parametrize("markup", ["```python", "1. Write:\n   ```python", "- a\n  - b:\n    ```"])
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_code_is_copied_as_it_is(markup: str) -> None:
    """By the bytes that a terminal gets: code begins at its first column, and no blanks follow it."""
    fence = markup.split("\n")[-1]
    indent = fence[: len(fence) - len(fence.lstrip())]
    lines = [*markup.split("\n"), *(indent + line for line in CODE), f"{indent}```", "", "end"]
    master, slave = os.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as out, ThreadPoolExecutor() as pool:
        reading = pool.submit(read_all, master)
        choose_display(None, out)(iter(f"{line}\n" for line in lines), lambda: False)
        out.write(END)
        out.flush()
        written = reading.result()
    os.close(master)
    shown = play(written.replace("\r\n", "\n"), trailing_blanks=True)
    start = shown.index(CODE[0])
    assert shown[start : start + len(CODE)] == CODE
    assert not re.search(r"\x1b\[([\d;]*;)?4[0-8]\b", written)  # a background would be copied as blanks


END = "\x04"


def read_all(terminal: int) -> str:
    """What is written to a pseudo-terminal, up to `END`."""
    written = b""
    while END.encode() not in written:
        written += os.read(terminal, 4096)
    return written.decode().removesuffix(END)


def play(text: str, trailing_blanks: bool = False) -> list[str]:
    """The lines that a terminal holds after it was sent a text; as much of its language as rich speaks."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|[^\x1b]", text):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token.endswith("A") and token.startswith("\x1b"):
            row -= int(token[2:-1] or 1)
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    return lines if trailing_blanks else [line.rstrip() for line in lines]


@pytest.mark.parametrize("markdown", [True, False])
def test_a_model_does_not_steer_the_terminal(markdown: bool) -> None:
    shown = show(Terminal(), ["a\x1b]0;title\x07b\x9b2J"], markdown=markdown)
    assert "a\\u001b]0;title\\u0007b\\u009b2J" in shown  # what was there is seen
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown


def test_what_is_in_a_loaded_transcript_does_not_either(
    repl: Repl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "\x1b]52;c;cm0gLXJm\x07\u202eone\n\ttwo"
    messages = [{"role": "system", "content": said}, {"role": "user", "content": said}]
    settings = {"stop": [said]}
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"messages": messages, "settings": settings}), encoding="utf-8")
    repl.note = note
    for command in (f"/load {file}", "/show", "/system", "/regen", "/undo", f"/load {file}\x1b[2J"):
        dispatch(repl, command)
    shown = capsys.readouterr().err
    assert "\\u001b]52;c;cm0gLXJm\\u0007\\u202eone\n\ttwo" in shown  # whole, with its lines
    assert not re.search("[\x1b\x07\u202e]", shown)


@pytest.mark.parametrize("markdown", [True, False, None])
def test_an_interrupted_answer_leaves_the_terminal_as_it_was(markdown: bool | None) -> None:
    def pieces() -> Iterator[str]:
        yield "<think>so "
        raise KeyboardInterrupt

    out = Terminal()
    with pytest.raises(KeyboardInterrupt):
        choose_display(markdown, out)(pieces(), lambda: False)
    text = out.getvalue()
    assert text.rstrip().endswith(("\x1b[?25h", NORMAL))  # the cursor is there, no style is on
    assert "so" in text


@given(
    text=st.text("<think>/ ab\n", max_size=30).map(lambda s: s)
    | st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "<", "</thin"]), max_size=8).map("".join),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    opened=st.booleans(),
)
def test_reasoning_is_separated_from_the_answer_however_the_text_is_cut(
    text: str, cuts: list[int], opened: bool
) -> None:
    body = text if opened else text.lstrip().removeprefix("<think>")
    has_reasoning = opened or text.lstrip().startswith("<think>")
    reasoning, _, answer = body.partition("</think>") if has_reasoning else ("", "", text)
    parser = ReasoningParser(opened)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    parts = [part for a, b in itertools.pairwise(ends) for part in parser.push(text[a:b])]
    parts += parser.flush()
    assert "".join(t for is_reasoning, t in parts if is_reasoning) == reasoning
    assert "".join(t for is_reasoning, t in parts if not is_reasoning) == answer


def test_where_the_history_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_STATE_HOME"
    monkeypatch.setenv(variable, str(tmp_path))
    assert history_file() == tmp_path / "mygpt" / "chat_history"
    monkeypatch.setenv(variable, "")
    assert history_file().is_absolute()


def test_a_history_that_cannot_be_kept_is_told(
    repl: Repl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The session goes on, and remembers what is typed until it ends."""
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_STATE_HOME"
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert isinstance(_open_history(repl), InMemoryHistory)
    (note,) = repl.notes
    assert note.startswith(f"note: what you type is not remembered for the next time: {history_file()}: ")
    monkeypatch.setenv(variable, str(tmp_path))
    assert isinstance(_open_history(repl), FileHistory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda file, mode: False)
        assert isinstance(_open_history(repl), InMemoryHistory)
    assert repl.notes[1:] == [
        f"note: what you type is not remembered for the next time: {history_file()}: no permission"
    ]


def test_an_unforeseen_error_costs_no_conversation(repl: Repl, monkeypatch: pytest.MonkeyPatch) -> None:
    """But whoever looks for it sees where it was."""

    def fail(*_: Any, **__: Any) -> None:
        raise ArithmeticError("what\nnobody thought of")

    monkeypatch.setattr(repl.conversation, "undo", fail)
    monkeypatch.delenv("MYGPT_DEBUG", raising=False)
    assert repl.does("/undo") == "error: ArithmeticError: what nobody thought of (MYGPT_DEBUG=1 shows where)"
    assert repl.failed == 1
    monkeypatch.setenv("MYGPT_DEBUG", "1")
    with pytest.raises(ArithmeticError):
        repl.does("/undo")


# Scripts, through the command


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`mygpt chat` with lines on standard input; gives the exit code and what it wrote."""

    def chat(folder: Path, lines: str, *options: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        capfd.readouterr()
        fixed = ["--precision", "32-true", "--accelerator", "cpu", "--temperature", "0"]
        code = main(["chat", str(folder), *fixed, "--max_new_tokens", "5", *map(str, options)])
        return code, *capfd.readouterr()

    return chat


def test_a_script_is_one_turn_a_line(run: Run, folder: Path, llm: LLM, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    code, out, err = run(folder, f"Hi\n\n  \nAgain\n/save {file}\n/exit\nnever\n")
    conversation = llm.chat(temperature=0.0, max_new_tokens=5)
    answers = ["".join(conversation.say(text)) for text in ("Hi", "Again")]
    assert (code, out) == (0, "".join(f"{answer}\n" for answer in answers))
    lines = err.split("\n")
    assert lines[0] == f"{folder} | cpu 32-true | /help lists the commands"
    assert sum(bool(re.fullmatch(STATISTICS, line)) for line in lines) == 2
    assert json.loads(file.read_text())["messages"] == conversation.messages
    assert main(["generate", str(folder), "--prompts", str(file), "--max_new_tokens", "1"]) == 0


def test_a_script_as_windows_writes_it(folder: Path) -> None:
    """With a byte order mark, and both characters at the end of a line."""
    command = [sys.executable, "-m", "mygpt", "chat", str(folder), "--accelerator", "cpu"]
    done = subprocess.run(
        command, input=b"\xef\xbb\xbf/show\r\n!exit\r\nHi\r\n", capture_output=True, check=True
    )
    assert done.stdout == b""
    assert b"temperature: 0.8" in done.stderr


def test_a_script_of_messages_of_several_lines(run: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    lines = f"/set top_k 9\na\n/b\n{SUBMIT}\n\n/save {file}\nc"
    code, out, _ = run(folder, lines, "--multiline", "true")
    assert code == 0
    assert out.count("\n") >= 2
    assert not file.exists()  # it was within a message
    code, _, _ = run(folder, f"a\n/b\n{SUBMIT}\n/save {file}\n", "--multiline", "true")
    assert json.loads(file.read_text())["messages"][0]["content"] == "a\n/b"


def test_a_script_of_quoted_messages(run: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    code, _, _ = run(folder, f'"""one\n\n/two\nquit"""\n"""three"""\n/save {file}\nquit\nnever\n')
    assert code == 0
    said = [m["content"] for m in json.loads(file.read_text())["messages"][::2]]
    assert said == ["one\n\n/two\nquit", "three"]
    code, _, err = run(folder, '"""one\ntwo')
    assert (code, len(re.findall(STATISTICS, err))) == (0, 1)


def test_a_script_goes_on_after_an_error_and_ends_with_2(run: Run, folder: Path) -> None:
    code, out, err = run(folder, "/foo\nHi\n")
    assert code == 2
    assert out != ""
    assert "error: there is no command /foo" in err
    assert err.endswith("error: 1 of the lines failed; what was wrong is said above\n")


def test_a_script_stops_where_the_context_is_full(run: Run, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    code, _, err = run(folder, "x" * 60 + "\n" + "y" * 60 + "\nz\n", "--on_overflow", "error")
    assert code == 2
    assert len(re.findall(STATISTICS, err)) == 1
    assert re.search(r"error: the conversation of \d+ tokens leaves no room .*--on_overflow drop\n$", err)


def test_options_win_over_what_was_saved(run: Run, folder: Path, llm: LLM, tmp_path: Path) -> None:
    file, again = tmp_path / "x.json", tmp_path / "y.json"
    conversation = llm.chat(sys_prompt="old", temperature=0.5, top_k=3)
    "".join(conversation.say("Hi"))
    conversation.save(file)
    assert run(folder, f"/save {again}\n", "--load", file, "--sys_prompt", "new")[0] == 0
    saved = json.loads(again.read_text())
    assert saved["messages"][0] == {"role": "system", "content": "new"}
    assert saved["messages"][1:] == conversation.messages[1:]
    assert (saved["settings"]["top_k"], saved["settings"]["temperature"]) == (3, 0.0)


def test_a_template_that_raises(run: Run, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if 'bad' in messages[-1].content %}{{ raise_exception('no\nsuch talk') }}{% endif %}hi"
    )
    code, _, err = run(folder, "good\nbad\ngood\n")
    assert code == 2
    assert len(re.findall(STATISTICS, err)) == 2
    assert "error: the chat template refuses these messages: no such talk\n" in err


def test_a_text_to_stop_at_needs_no_quotes(run: Run, folder: Path) -> None:
    """As after `--stop`. YAML would take `###` for a comment, and `User:` for a mapping."""
    script = '/set stop ###\n/set stop User:\n/set stop ["a", \'b\']\n/set stop "c d"\n/set stop []\n'
    code, _, err = run(folder, script)
    assert code == 0
    assert err.splitlines()[1:] == [
        "stop: ['###']", "stop: ['User:']", "stop: [a, b]", "stop: [c d]", "stop: []"
    ]  # fmt: skip


def test_a_setting_that_the_model_cannot_take(run: Run, folder: Path) -> None:
    """The error has the setting's name, and says how to go on; as an option it is told at the start."""
    code, _, err = run(folder, "/set think false\nHi\n/set think null\nHi\n")
    assert code == 2
    assert (
        "error: think: the model's chat template has no switch for it; leave it out, or set it to null\n"
        in err
    )
    assert len(re.findall(STATISTICS, err)) == 1
    code, _, err = run(folder, "Hi\n", "--think", "false")
    assert code == 2
    assert err.startswith("error: --think: the model's chat template has no switch")


def test_a_mistyped_setting(run: Run, folder: Path) -> None:
    assert (
        "there is no setting 'temprature'; did you mean temperature?\n"
        in run(folder, "/set temprature 1\n")[2]
    )


def test_a_model_without_a_template_says_so(run: Run, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", chat=False)
    assert "no chat template" in run(folder, "Hi\n")[2]
    assert "no chat template" not in run(folder, "Hi\n", "--prompt_style", "plain")[2]


def test_errors_of_loading_come_first(run: Run, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    edit_json(folder / "config.json", hidden_size=None)
    code, out, err = run(folder, "Hi\n")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_script_that_is_no_text(folder: Path) -> None:
    command = [sys.executable, "-m", "mygpt", "chat", str(folder)]
    done = subprocess.run(command, input=b"\xff\xfe\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"error: standard input is not text" in done.stderr
    assert done.stderr.count(b"\n") == 2  # the greeting, and this

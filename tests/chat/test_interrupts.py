"""Ctrl-C at each point between Enter and the next prompt: the answer stops, and nothing is left behind."""

import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from mygpt import LLM
from mygpt.chat import terminal
from mygpt.chat.conversation import Conversation
from mygpt.chat.interrupts import Interrupts
from mygpt.chat.terminal import run_terminal
from tests.chat.test_session import Repl, load
from tests.models import write_model

STOPPED_BEFORE = "note: stopped before the answer began; nothing was added to the conversation"
STOPPED = "note: stopped; the conversation holds what was said so far"
AGAIN = "Ctrl-C again at an empty line, or Ctrl-D, ends the session"
STEPS = 12


def press() -> None:
    """Ctrl-C, as the terminal sends it."""
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module", params=["llama", "window"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    window = {"sliding_window": 16} if request.param == "window" else {}
    family = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]} if window else {}
    folder = write_model(tmp_path_factory.mktemp("model"), max_position_embeddings=512, **window, **family)
    return load(folder)


class Person(Repl):
    """Someone at a terminal, who types texts; `steps` counts the model's forward passes."""

    def __init__(self, llm: LLM, monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
        super().__init__(llm, max_new_tokens=STEPS)
        self.texts = list(texts)
        self.steps = 0
        self.prompts = 0
        self.at_prompt: Callable[[], None] = lambda: None  # after Enter, before the editor has ended
        editor = SimpleNamespace(default_buffer=SimpleNamespace(text=""), input=None, output=None)
        monkeypatch.setattr(terminal, "_make_editor", lambda session: editor)
        monkeypatch.setattr(terminal, "no_echo", nullcontext)
        monkeypatch.setattr(terminal, "clear_typeahead", lambda _: None)
        monkeypatch.setattr(Interrupts, "prompt", lambda interrupts, _: self._type(interrupts))

    def _type(self, interrupts: Interrupts) -> str:
        self.prompts += 1
        if interrupts.take():
            raise KeyboardInterrupt
        if not self.texts:
            raise EOFError
        text = self.texts.pop(0)
        self.at_prompt()
        return text

    def run(self, at_step: Callable[[int], None] = lambda _: None) -> None:
        def count(*_: Any) -> None:
            self.steps += 1
            at_step(self.steps)

        layer = self.conversation.engine.loaded.model.layers[1]  # type: ignore[union-attr, index]
        with layer.register_forward_pre_hook(count):
            run_terminal(self)


@pytest.fixture
def someone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Person:
    return Person(llm, monkeypatch, "Hi")


def check_history(person: Person) -> None:
    """The cache holds what it is taken to hold: the next answer is the one without it."""
    conversation = person.conversation
    conversation.interruptible = nullcontext
    "".join(conversation.say("b"))
    expected = LLM(conversation.engine.loaded).generate(
        conversation.messages[:-1], temperature=0.0, max_new_tokens=STEPS
    )
    assert conversation.messages[-1]["content"] == expected


def wrap(monkeypatch: pytest.MonkeyPatch, target: object, name: str, before: Callable[[], None]) -> None:
    original = getattr(target, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        before()
        return original(*arguments, **options)

    monkeypatch.setattr(target, name, wrapped)


@pytest.mark.parametrize("where", ["the editor", "the template", "the cache", "the batch"])
def test_before_the_answer(where: str, someone: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = someone.conversation
    if where == "the editor":
        someone.at_prompt = press
    else:
        target: dict[str, tuple[object, str]] = {
            "the template": (conversation.prompt_encoder, "encode"),
            "the cache": (conversation.engine.loaded.model, "allocate_cache"),
            "the batch": (conversation.engine, "batch"),
        }
        wrap(monkeypatch, *target[where], press)
    someone.run()
    monkeypatch.undo()
    assert someone.steps == 0
    assert someone.notes == [STOPPED_BEFORE]
    assert conversation.messages == []
    check_history(someone)


@pytest.mark.parametrize("step", [1, 2, 7])
@pytest.mark.parametrize("swallowed", [False, True])
def test_in_a_step(step: int, swallowed: bool, someone: Person) -> None:
    """Also where a library swallows the KeyboardInterrupt."""

    def at(now: int) -> None:
        if now == step:
            with suppress(KeyboardInterrupt) if swallowed else nullcontext():
                press()

    someone.run(at)
    assert (
        step <= someone.steps <= step + 3 * swallowed
    )  # then up to the next token that completes a character
    assert someone.notes[0] in (STOPPED, STOPPED_BEFORE)
    assert someone.notes[1:] == []
    assert [m["role"] for m in someone.conversation.messages] in ([], ["user", "assistant"])
    check_history(someone)


@pytest.mark.parametrize("piece", [1, 3])
def test_while_it_is_drawn(piece: int, someone: Person) -> None:
    shown = []

    def display(pieces: Iterator[str], _: Callable[[], bool]) -> None:
        for text in pieces:
            shown.append(text)
            if len(shown) == piece:
                press()
                shown.append("drawn to the end")

    someone._display = display
    someone.run()
    assert shown[-1] == "drawn to the end"
    assert someone.notes == [STOPPED]
    assert someone.conversation.messages[-1]["content"] == "".join(shown[:-1])
    check_history(someone)


@pytest.mark.parametrize("first", [None, 4])
def test_while_the_answer_is_kept(
    first: int | None, someone: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `first`, it is the second Ctrl-C; else the answer is complete, and there is nothing to stop."""
    wrap(monkeypatch, someone.conversation, "_keep", press)
    someone.run(lambda step: press() if step == first else None)
    monkeypatch.undo()
    assert someone.notes[0] == (
        STOPPED if first else "note: the answer was cut after 12 tokens (max_new_tokens)"
    )
    assert someone.notes[1:] == ([] if first else [AGAIN])
    assert [m["role"] for m in someone.conversation.messages] == ["user", "assistant"]
    check_history(someone)


def test_after_the_last_piece(someone: Person) -> None:
    def display(pieces: Iterator[str], _: Callable[[], bool]) -> None:
        "".join(pieces)
        press()

    someone._display = display
    someone.run()
    assert someone.steps == STEPS
    assert someone.notes[-1] == AGAIN
    assert someone.conversation.last is not None
    assert someone.conversation.last.finish_reason == "length"


def test_many_at_once_are_one(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stop one answer, and do not end the session."""
    person = Person(llm, monkeypatch, "Hi", "/stats")

    def at(step: int) -> None:
        if step == 3:
            for _ in range(3):
                with suppress(KeyboardInterrupt):
                    press()

    person.run(at)
    assert person.notes[0] == STOPPED
    assert "new tokens" in person.notes[1]
    assert person.prompts == 3


def test_in_a_command_it_is_as_at_the_prompt(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command is done to its end, such as a file that is written."""
    file = tmp_path / "x.json"
    person = Person(llm, monkeypatch, f"/save {file}", "/stats")
    wrap(monkeypatch, Conversation, "save", press)
    person.run()
    assert file.exists()
    assert person.notes == [f"0 messages saved to {file}", AGAIN, "nothing was said yet"]


def test_a_key_that_is_no_signal_counts_after_enter_too() -> None:
    """As on Windows, where the editor reads it with what is typed ahead. Without it, that is kept."""
    interrupts = Interrupts()
    with create_pipe_input() as keys:
        editor: PromptSession[str] = PromptSession(input=keys, output=DummyOutput())
        keys.send_text("Hi\rnext\r")
        assert [interrupts.prompt(editor) for _ in range(2)] == ["Hi", "next"]
        assert not interrupts.take()
        keys.send_text("Hi\rnext\r\x03")
        assert interrupts.prompt(editor) == "Hi"
        assert interrupts.take()
        keys.send_text("\x03")
        with pytest.raises(KeyboardInterrupt):
            interrupts.prompt(editor)
        assert not interrupts.take()


def test_before_the_editor_is_open_it_is_as_in_it() -> None:
    interrupts = Interrupts()
    with create_pipe_input() as keys, interrupts.handled():
        editor: PromptSession[str] = PromptSession(input=keys, output=DummyOutput())
        press()
        with pytest.raises(KeyboardInterrupt):
            interrupts.prompt(editor)
        keys.send_text("Hi\r")
        assert interrupts.prompt(editor) == "Hi"


def test_the_handler_is_the_old_one_afterwards(someone: Person) -> None:
    before = signal.getsignal(signal.SIGINT)
    someone.run()
    assert signal.getsignal(signal.SIGINT) is before

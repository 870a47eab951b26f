"""The line editor of `mygpt chat`: history across runs, completion, messages of several lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import clear_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from mygpt.chat.dispatch import dispatch
from mygpt.chat.interrupts import Interrupts
from mygpt.chat.keyboard import make_input, no_echo
from mygpt.chat.multiline import is_open
from mygpt.chat.session import Session
from mygpt.chat.slash_commands import COMMANDS, FILE_COMMANDS, SUBMIT, is_command


def run_terminal(session: Session) -> None:
    """Read and handle texts until the session ends: by a command, Ctrl-D, or Ctrl-C twice."""
    interrupts = Interrupts()
    editor = _make_editor(session)
    session.conversation.interruptible = interrupts.raising
    session.confirm = lambda question: _confirm(question, interrupts, editor)
    stopping = False  # whether the last key was Ctrl-C
    with interrupts.handled():
        while not session.done:
            try:
                text = interrupts.prompt(editor)
                stopping = _handle(text, session, interrupts, editor)
            except EOFError:
                return
            except KeyboardInterrupt:
                if stopping and not editor.default_buffer.text:
                    return
                stopping = True
            if stopping:
                session.note("Ctrl-C again at an empty line, or Ctrl-D, ends the session")


def _handle(text: str, session: Session, interrupts: Interrupts, editor: PromptSession[str]) -> bool:
    """Do what the text says; returns whether Ctrl-C was pressed and found nothing to stop."""
    if not text.strip():
        return False
    with no_echo():
        stopped = dispatch(session, text)
    if not interrupts.take():
        return False
    clear_typeahead(editor.input)  # typed before Ctrl-C; what was not yet read of it, the terminal drops too
    return not stopped


def _confirm(question: str, interrupts: Interrupts, editor: PromptSession[str]) -> bool:
    asking: PromptSession[str] = PromptSession(f"{question} [y/N] ", input=editor.input, output=editor.output)
    try:
        return interrupts.prompt(asking).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def history_file() -> Path:
    """The history's file, in the user's state folder (XDG Base Directory Specification)."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base, "mygpt", "chat_history").expanduser()


def _open_history(session: Session) -> History:
    file = history_file()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        if os.access(file, os.R_OK | os.W_OK):
            return FileHistory(str(file))
        reason = "no permission"
    except OSError as error:
        reason = error.strerror or str(error)
    session.note(f"note: what you type is not remembered for the next time: {file}: {reason}")
    return InMemoryHistory()


def _make_editor(session: Session) -> PromptSession[str]:
    lines = Condition(lambda: session.multiline or is_open(get_app().current_buffer.text))
    return PromptSession(
        ">>> ",
        multiline=lines,
        prompt_continuation="... ",
        history=_open_history(session),
        completer=_SlashCompleter(session),
        # For other texts, prompt_toolkit would keep empty lines free for a menu that never opens.
        complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
        key_bindings=_make_keys(lines),
        input=make_input(),
        output=create_output(always_prefer_tty=True),  # standard output may be a file
    )


def _make_keys(multiline: Condition) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=multiline)
    def _(event: KeyPressEvent) -> None:
        """A new line. The line `!submit` sends the message, and a command runs at once."""
        buffer = event.current_buffer
        if buffer.document.current_line.strip() == SUBMIT:
            buffer.text = "\n".join(line for line in buffer.text.split("\n") if line.strip() != SUBMIT)
            buffer.validate_and_handle()
        elif is_command(buffer.text) and "\n" not in buffer.text:
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        """Alt-Enter does what Enter does not."""
        if multiline():
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


class _SlashCompleter(Completer):
    """Completes names of commands, of settings after `/set`, and of files after commands that take one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """The names that begin with the text before the cursor."""
        text = document.text_before_cursor
        command, space, rest = text.partition(" ")
        if space and command in FILE_COMMANDS:
            yield from self._paths.get_completions(Document(rest.lstrip()), complete_event)
            return
        known = {f"/set {name}": "" for name in self._session.conversation.settings}
        if not space:
            known = {name: command.summary for name, command in COMMANDS.items()}
        if text.startswith("/"):
            for name, summary in known.items():
                if name.startswith(text):
                    yield Completion(name, -len(text), display_meta=summary)

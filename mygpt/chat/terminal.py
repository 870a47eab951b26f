"""The line editor of `mygpt chat`: history across runs, completion, messages of several lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from mygpt.chat.dispatch import dispatch
from mygpt.chat.session import Session
from mygpt.chat.slash_commands import COMMANDS, SUBMIT, is_command


def run_terminal(session: Session) -> None:
    """Read and handle texts until the session ends: by a command, an empty line, Ctrl-D, or Ctrl-C twice."""
    editor = _make_editor(session)
    stopping = False  # whether the last key was Ctrl-C
    while not session.done:
        try:
            text = editor.prompt()
            stopping = False
            if text.strip():
                with _no_echo():
                    dispatch(session, text)
            elif not session.multiline:
                return
        except EOFError:
            return
        except KeyboardInterrupt:
            if stopping and not editor.default_buffer.text:
                return
            stopping = True
            session.note("Ctrl-C again at an empty line, or Ctrl-D, ends the session")


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Typed keys are not echoed while an answer is drawn: they would shift it. They appear at the next prompt."""
    try:
        import termios
    except ImportError:  # Windows: keys are echoed only while a program reads them
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = before.copy()
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


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
    multiline = Condition(lambda: session.multiline)
    return PromptSession(
        ">>> ",
        multiline=multiline,
        prompt_continuation="... ",
        history=_open_history(session),
        completer=_SlashCompleter(session),
        # For other texts, prompt_toolkit would keep empty lines free for a menu that never opens.
        complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
        key_bindings=_make_keys(multiline),
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
    """Completes names of commands and, after `/set`, of settings."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """The names that begin with the text before the cursor."""
        text = document.text_before_cursor
        known = {f"/set {name}": "" for name in self._session.conversation.settings}
        if " " not in text:
            known = {name: command.summary for name, command in COMMANDS.items()}
        if text.startswith("/"):
            for name, summary in known.items():
                if name.startswith(text):
                    yield Completion(name, -len(text), display_meta=summary)

"""The line editor: history across runs, completion, messages of several lines."""

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

from mygpt.chat.session import Session, is_command
from mygpt.chat.slash_commands import COMMANDS, SUBMIT


def run_terminal(session: Session) -> None:
    """Read and handle texts until the session ends: by a command, an empty line, Ctrl-D, or Ctrl-C twice."""
    editor = _make_editor(session)
    stopping = False  # Ctrl-C was the last thing pressed
    while not session.done:
        try:
            text = editor.prompt()
            stopping = False
            if text.strip():
                with _no_echo():
                    session.handle(text)
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
    """While an answer is drawn, typed keys (Ctrl-C's `^C` too) would shift it; they appear at the next prompt."""
    try:
        import termios
    except ImportError:  # Windows, where nothing is echoed but to who reads it
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
    """Where what was typed is kept: in the user's folder for state (XDG Base Directory Specification)."""
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
        # Elsewhere the menu's place would be kept free below the line, for nothing.
        complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
        key_bindings=_make_keys(multiline),
        output=create_output(always_prefer_tty=True),  # standard output may be a file
    )


def _make_keys(multiline: Condition) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=multiline)
    def _(event: KeyPressEvent) -> None:
        """A new line; sends at the line `!submit`, and where there is but a command."""
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
        """Alt-Enter: what Enter does not."""
        if multiline():
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


class _SlashCompleter(Completer):
    """Names of commands, and of settings after `/set`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Those that begin with what stands before the cursor."""
        text = document.text_before_cursor
        known = {f"/set {name}": "" for name in self._session.conversation.settings}
        if " " not in text:
            known = {name: command.summary for name, command in COMMANDS.items()}
        if text.startswith("/"):
            for name, summary in known.items():
                if name.startswith(text):
                    yield Completion(name, -len(text), display_meta=summary)

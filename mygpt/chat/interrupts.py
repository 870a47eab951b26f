"""Ctrl-C in the terminal's session: none is lost, and none comes where it does harm."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys

T = TypeVar("T")


class Interrupts:
    """Handles SIGINT for a whole session, with these rules.

    - While the editor waits for a text, it is the key Ctrl-C.
    - Within `raising`, it is a KeyboardInterrupt at once.
    - Anywhere else it is `pending`, until the next `raising` begins, the next prompt opens, or `take` is called.
    """

    def __init__(self) -> None:
        self.pending = False
        self._raises = False
        self._app: Application[Any] | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals from here on; only in the main thread."""
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let Ctrl-C stop what is done in here, at any place in it.

        Raises:
            KeyboardInterrupt: also where it was pressed before, and where a library has swallowed it.
        """
        self._raises = True
        try:
            self._raise_pending()
            yield
        finally:
            self._raises = False
        self._raise_pending()

    def take(self) -> bool:
        """Whether one is pending, which it is no longer then."""
        if not self.pending:
            return False
        self.pending = False  # what came since the line above is the same to a person
        return True

    def prompt(self, editor: PromptSession[T]) -> T:
        """Have the editor read a text.

        Raises:
            KeyboardInterrupt: Ctrl-C came before Enter. After it, it is pending.
            EOFError: Ctrl-D.
        """
        self._app = editor.app
        try:
            text = editor.prompt(handle_sigint=False, pre_run=self._press)
        finally:
            self._app = None
        keys = get_typeahead(editor.input)
        if any(key.key == Keys.ControlC for key in keys):  # where it is no signal, as on Windows
            self.pending = True
        else:
            store_typeahead(editor.input, keys)
        return text

    def _handle(self, *_: object) -> None:
        self.pending = True
        if self._raises:
            self._raises = False  # once: what follows tidies up
            raise KeyboardInterrupt
        if self._app is not None and (loop := self._app.loop) is not None:
            context = self._app.context  # of key bindings, once the editor is so far
            loop.call_soon_threadsafe(self._press, context=context and context.copy())

    def _press(self) -> None:
        """Press the key in the editor, if that has not got its text yet."""
        if self._app is not None and not self._app.is_done and self.take():
            self._app.key_processor.feed(KeyPress(Keys.ControlC))
            self._app.key_processor.process_keys()

    def _raise_pending(self) -> None:
        if self.pending:
            raise KeyboardInterrupt

"""The terminal's settings while a text is read, and while an answer is drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prompt_toolkit.input import Input

if sys.platform == "win32":  # keys are echoed only while a program reads them

    def make_input() -> Input | None:
        """prompt_toolkit's own."""
        return None

    @contextmanager
    def no_echo() -> Iterator[None]:
        """Nothing to do."""
        yield

else:
    import os
    import termios

    from prompt_toolkit.input.vt100 import Vt100Input

    _LFLAG, _CC = 3, 6  # in the list of tcgetattr

    class _SignallingInput(Vt100Input):
        """Ctrl-C is a signal here too, at once and always.

        prompt_toolkit makes it a byte in the input, until it has given the terminal back. One that is pressed right
        after Enter would then be read as a key of the next prompt, while an answer goes on.
        """

        @contextmanager
        def raw_mode(self) -> Iterator[None]:
            with super().raw_mode():
                terminal = self.fileno()
                settings = termios.tcgetattr(terminal)
                settings[_LFLAG] |= termios.ISIG
                nothing = bytes([os.fpathconf(terminal, "PC_VDISABLE")])
                settings[_CC][termios.VQUIT] = settings[_CC][termios.VSUSP] = nothing  # these stay keys
                termios.tcsetattr(terminal, termios.TCSANOW, settings)
                yield

    def make_input() -> Input | None:
        """Standard input, a terminal."""
        return _SignallingInput(sys.stdin)

    @contextmanager
    def no_echo() -> Iterator[None]:
        """Typed keys are not echoed while an answer is drawn: they would shift it. They appear at the next prompt."""
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        quiet = before.copy()
        quiet[_LFLAG] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, quiet)
        try:
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSANOW, before)

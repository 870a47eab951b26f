"""Makes `docs/chat.svg`: a real conversation with the default model, as a terminal shows it.

pip install pyte pexpect
python docs/screenshot.py
"""

import io
import os
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

OUTPUT = Path(__file__).with_name("chat.svg")
COLUMNS, ROWS = 88, 60
COMMAND = ("chat",)
LINES = (
    "What is the capital of France?",
    "And of Italy?",
    "Write a Python one-liner that prints hello.",
    "Name three fruits as a list.",
    "/undo",
)
PROMPT = ">>> "
PATIENCE_S = 600  # for one answer, on a machine that is busy
COLORS = {"brown": "yellow"}  # pyte's names, where rich has others


class Terminal(pyte.Screen):
    """A screen that a program runs in; it answers where the cursor is, as prompt_toolkit asks."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        super().__init__(COLUMNS, ROWS)
        self._stream = pyte.Stream(self)
        self._stream.feed(f"$ mygpt {' '.join(arguments)}\r\n")
        self._program = pexpect.spawn(
            sys.executable,
            ["-m", "mygpt", *arguments],
            env=environment,
            dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
            echo=False,
        )

    def write_process_input(self, data: str) -> None:
        """Called by pyte: an answer to the program."""
        self._program.send(data)

    def wait_for_prompt(self) -> None:
        """Read until the program waits for a line, and has written nothing for a moment."""
        end, quiet = time.monotonic() + PATIENCE_S, 0
        while quiet < 5 and time.monotonic() < end:
            try:
                self._stream.feed(self._program.read_nonblocking(65536, timeout=0.2))
                quiet = 0
            except pexpect.TIMEOUT:
                quiet += self.display[self.cursor.y].rstrip() == PROMPT.rstrip()
        if quiet < 5:
            sys.exit("no prompt came:\n" + "\n".join(self.display))

    def say(self, line: str) -> None:
        """Type a line, and wait for the next prompt."""
        self._program.send(line + "\r")
        self.wait_for_prompt()

    def close(self) -> None:
        """End the program."""
        self._program.sendeof()
        self._program.close()

    def text(self) -> Text:
        """What is on the screen, without the last prompt."""
        picture = Text()
        for y in range(self.cursor.y):
            row = self.buffer[y]
            width = len(self.display[y].rstrip())
            for style, chars in groupby((row[x] for x in range(width)), _style):
                picture.append("".join(char.data for char in chars), style)
            picture.append("\n")
        picture.rstrip()
        return picture


def _style(char: pyte.screens.Char) -> Style:
    return Style(
        color=_color(char.fg),
        bgcolor=_color(char.bg),
        bold=char.bold,
        italic=char.italics,
        reverse=char.reverse,
    )


def _color(name: str) -> str | None:
    if name == "default":
        return None
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return COLORS.get(name, name.replace("bright", "bright_"))


def main() -> None:
    """Talk, and save the picture."""
    with tempfile.TemporaryDirectory() as state:
        environment = os.environ | {
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "XDG_STATE_HOME": state,
        }
        environment.pop("NO_COLOR", None)
        terminal = Terminal(COMMAND, environment)
        terminal.wait_for_prompt()
        for line in LINES:
            terminal.say(line)
        terminal.close()
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(terminal.text())
    OUTPUT.write_text(console.export_svg(title="mygpt chat"), encoding="utf-8")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()

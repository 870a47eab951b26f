"""Show an answer as it comes: as plain text, with the reasoning dimmed, or as rendered Markdown."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, TextIO

from mygpt.chat.reasoning import ReasoningParser
from mygpt.errors import InputError
from mygpt.messages import for_output, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.segment import Segment

# Shows the pieces of an answer to the end. The second argument says whether the answer starts in reasoning; it may
# be called once the first piece is there.
Display = Callable[[Iterable[str], Callable[[], bool]], None]

DIM, NORMAL = "\x1b[2m", "\x1b[0m"
_FRAME_S = 0.08  # the least time between two renderings
_CODE = {"code": True}  # marks what is in a code block


def choose_display(markdown: bool | None, out: TextIO) -> Display:
    """The display for a stream; `markdown` None means Markdown on a terminal only.

    Raises:
        InputError: `markdown` is true and the stream can show no markup.
    """
    styled = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if markdown and not styled:
        raise InputError(
            "--markdown true needs a terminal as standard output, and NO_COLOR not set; leave it out"
        )
    if not styled:
        return lambda pieces, _: show_text(pieces, out)
    if markdown is False:
        return lambda pieces, starts_in_reasoning: show_dimmed(pieces, starts_in_reasoning, out)
    return lambda pieces, starts_in_reasoning: show_markdown(pieces, starts_in_reasoning, out)


def show_text(pieces: Iterable[str], out: TextIO) -> None:
    """The text unchanged, and a newline."""
    try:
        for piece in pieces:
            out.write(for_output(piece, out))
            out.flush()
    finally:
        out.write("\n")
        out.flush()


def show_dimmed(pieces: Iterable[str], starts_in_reasoning: Callable[[], bool], out: TextIO) -> None:
    """The text with its reasoning dimmed, and a newline."""
    parser = None
    try:
        for piece in pieces:
            parser = parser or ReasoningParser(starts_in_reasoning())
            _write_parts(parser.push(piece), out)
    finally:
        _write_parts(parser.flush() if parser else [], out)
        out.write("\n")
        out.flush()


def _write_parts(parts: list[tuple[bool, str]], out: TextIO) -> None:
    for is_reasoning, text in parts:
        text = printable(text)
        out.write(f"{DIM}{text}{NORMAL}" if is_reasoning else text)
    out.flush()


def show_markdown(pieces: Iterable[str], starts_in_reasoning: Callable[[], bool], out: TextIO) -> None:
    """The rendered Markdown, drawn anew as the answer grows; the reasoning dimmed above it.

    Lines that scroll out of the terminal are printed once and stay as they are; the others are redrawn.
    """
    from rich.console import Console

    live_answer = _LiveAnswer(Console(file=out, highlight=False))
    parser = None
    try:
        for piece in pieces:
            parser = parser or ReasoningParser(starts_in_reasoning())
            live_answer.add(parser.push(piece))
    finally:
        live_answer.add(parser.flush() if parser else [])
        live_answer.finish()


class _LiveAnswer:
    """An answer on a terminal."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._reasoning = self._answer = ""
        self._printed = 0  # lines that have scrolled away
        self._next_frame = 0.0
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="visible")
        self._live.start()

    def add(self, parts: list[tuple[bool, str]]) -> None:
        """Add a part of the answer; draw it unless the last drawing was just before."""
        for is_reasoning, text in parts:
            text = printable(text)
            if is_reasoning:
                self._reasoning += text
            else:
                self._answer += text
        if (start := time.monotonic()) >= self._next_frame:
            self._draw(self._console.height - 1)
            took = time.monotonic() - start
            self._next_frame = start + max(_FRAME_S, 10 * took)  # rendering a long answer takes longer

    def finish(self) -> None:
        """Draw the complete answer."""
        self._draw(self._console.height - 1)
        self._live.stop()

    def _draw(self, height: int) -> None:
        from rich.segment import SegmentLines

        lines = [_to_copy(line) for line in self._console.render_lines(self._content(), pad=False)]
        scrolled = max(self._printed, len(lines) - height)
        if scrolled > self._printed:
            self._console.print(SegmentLines(lines[self._printed : scrolled], new_lines=True), end="")
            self._printed = scrolled
        self._live.update(SegmentLines(lines[scrolled:], new_lines=True), refresh=True)

    def _content(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        reasoning, answer = self._reasoning.strip(), self._answer.strip()
        parts: list[RenderableType] = (
            [Text(reasoning + "\n" * bool(answer), style="dim")] if reasoning else []
        )
        return Group(*parts, _markdown(answer)) if answer else Group(*parts)


def _to_copy(line: list[Segment]) -> list[Segment]:
    """The line as it is copied from the terminal: code begins at its first column, in a list too."""
    code = next((i for i, (_, style, _) in enumerate(line) if style and style.meta == _CODE), 0)
    indented = not "".join(text for text, _, _ in line[:code]).strip()
    return _without_padding(line[code:] if indented else line)


def _without_padding(line: list[Segment]) -> list[Segment]:
    """The line up to its last visible character: padding would wrap when the window gets narrower."""
    from rich.segment import Segment

    for end in range(len(line), 0, -1):
        text, style, _ = line[end - 1]
        if style is not None and style.bgcolor is not None and not style.bgcolor.is_default:
            return line[:end]
        if text.rstrip():
            return [*line[: end - 1], Segment(text.rstrip(), style)]
    return []


def _markdown(text: str) -> RenderableType:
    """Markdown as models write it: line breaks stay, and HTML tags are plain text."""
    from markdown_it import MarkdownIt
    from rich.markdown import CodeBlock, Markdown
    from rich.style import Style
    from rich.styled import Styled
    from rich.syntax import Syntax

    class Code(CodeBlock):
        """Without rich's padding and background, which would be copied with it."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            code = str(self.text).rstrip()
            syntax = Syntax(
                code, self.lexer_name, theme="ansi_dark", word_wrap=True, background_color="default"
            )
            yield Styled(syntax, Style(meta=_CODE))

    class CopiedMarkdown(Markdown):
        elements: ClassVar = {**Markdown.elements, "fence": Code, "code_block": Code}

    markdown = CopiedMarkdown("")
    markdown.parsed = (
        MarkdownIt(options_update={"html": False}).enable(["strikethrough", "table"]).parse(text)
    )
    for block in markdown.parsed:
        for token in block.children or ():
            if token.type == "softbreak":
                token.type = "hardbreak"
    return markdown


def note(text: str) -> None:
    """Print a note about the conversation on standard error, whole: it may hold a long system message."""
    print(printable(text), file=sys.stderr, flush=True)

"""What a typed text does to a conversation. Knows no terminal: texts come in, answers and notes go out."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing

from mygpt.chat.conversation import Conversation
from mygpt.chat.display import Display
from mygpt.chat.slash_commands import ENDINGS, run_command, statistics
from mygpt.errors import ContextOverflowError, InputError, one_line


class Session:
    """A conversation by what a person types.

    Attributes:
        done: the session was ended.
        failed: how many texts ended in an error.
        multiline: whether a message may have several lines; whoever reads them decides by it.
    """

    def __init__(
        self,
        conversation: Conversation,
        display: Display,
        note: Callable[[str], None],
        *,
        interactive: bool,
        multiline: bool = False,
    ) -> None:
        """`interactive`: a person sits there. Else Ctrl-C ends the session, and each turn's statistics are noted."""
        self.conversation = conversation
        self.note = note
        self.interactive = interactive
        self.multiline = multiline
        self.done = False
        self.failed = 0
        self._display = display

    def handle(self, text: str) -> None:
        """Run a command, or say the text. What goes wrong is noted, and nothing is lost by it.

        Raises:
            ContextOverflowError: the conversation was to stop where the context is full, and it is.
            KeyboardInterrupt: Ctrl-C in a session that is not interactive.
        """
        try:
            if is_command(text):
                run_command(self, text.strip())
            else:
                self.answer(self.conversation.say(text[1:] if text.startswith("//") else text))
        except ContextOverflowError:
            raise
        except Exception as error:  # also one that no one foresaw must not cost the conversation
            if not isinstance(error, InputError) and os.environ.get("MYGPT_DEBUG") == "1":
                raise
            self.failed += 1
            self.note(f"error: {one_line(error)}")
        except KeyboardInterrupt:
            if not self.interactive:
                raise

    def answer(self, pieces: Generator[str, None, None]) -> None:
        """Show an answer as it comes, then what there is to say about it."""
        conversation = self.conversation
        last, dropped = conversation.last, conversation.n_dropped
        try:
            with closing(pieces):  # ends it where the display was interrupted
                self._display(pieces, lambda: conversation.starts_in_reasoning)
        except KeyboardInterrupt:
            if conversation.last is last:
                self.note("note: stopped before the answer began; nothing was added to the conversation")
            else:
                self.note("note: stopped; the conversation holds what was said so far")
            raise
        self._note_turn(dropped)

    def _note_turn(self, dropped: int) -> None:
        conversation, turn = self.conversation, self.conversation.last
        assert turn is not None
        if turn.finish_reason == "length":
            limit = conversation.options.max_new_tokens
            why = "--max_new_tokens" if turn.new_tokens == limit else "the context is full"
            self.note(f"note: the answer was cut after {turn.new_tokens} tokens ({why})")
        if conversation.n_dropped > dropped:
            self.note(
                f"note: the context was full: the model no longer sees the {conversation.n_dropped} oldest messages"
            )
        context = conversation.llm.config.context_length
        if turn.context_left < context / 4:
            self.note(f"note: {turn.context_left} of the context's {context} tokens are left")
        if not self.interactive:
            self.note(statistics(conversation))


def is_command(text: str) -> bool:
    """Whether a text is no message; `//` begins a message that begins with a slash."""
    return (text.startswith("/") and not text.startswith("//")) or text.strip() in ENDINGS

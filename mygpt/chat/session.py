"""A session of `mygpt chat`: it shows answers and writes notes. It knows no terminal and no commands."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from mygpt.chat.attachments import Attachment, with_attachments
from mygpt.chat.conversation import Conversation
from mygpt.chat.display import Display
from mygpt.chat.models import ModelSwitch


class Session:
    """A conversation with a person, and how it is shown.

    Attributes:
        conversation: the messages and the model.
        note: writes a line about the conversation that is no part of it.
        interactive: whether a person types; otherwise the texts come from a file or a pipe.
        done: whether the session has ended.
        failed: how many texts led to an error.
        multiline: whether a message may have several lines.
        models: loads other models; None where there is only this one.
        attachments: files that go before the next message.
        confirm: asks the person a question, which has yes or no for an answer; None where there is no person.
        written: the files that were saved.
    """

    def __init__(
        self,
        conversation: Conversation,
        display: Display,
        note: Callable[[str], None],
        *,
        interactive: bool,
        multiline: bool = False,
        models: ModelSwitch | None = None,
    ) -> None:
        """When it is not `interactive`, Ctrl-C ends the session, and statistics follow each turn."""
        self.conversation = conversation
        self.note = note
        self.interactive = interactive
        self.multiline = multiline
        self.models = models
        self.attachments: list[Attachment] = []
        self.confirm: Callable[[str], bool] | None = None
        self.written: set[Path] = set()
        self.done = False
        self.failed = 0
        self._display = display

    def say(self, text: str) -> None:
        """Send a message, with the attachments before it, and show the answer.

        Where the message does not become a part of the conversation, the attachments wait for the next one.
        """
        messages = self.conversation.messages
        said = len(messages)
        try:
            self.answer(self.conversation.say(with_attachments(self.attachments, text)))
        finally:
            if len(messages) > said:
                self.attachments = []

    def answer(self, pieces: Generator[str, None, None]) -> None:
        """Show an answer as it comes, then notes about it."""
        conversation = self.conversation
        last, dropped = conversation.last, conversation.n_dropped
        try:
            with closing(pieces):  # ends the answer when the display is interrupted
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
            why = "max_new_tokens" if turn.new_tokens == limit else "the context is full"
            self.note(f"note: the answer was cut after {turn.new_tokens} tokens ({why})")
        if turn.finish_reason == "repetition":
            self.note(
                "note: the answer was ended because it repeats itself; '/set repetition_penalty 1.1' and /regen may "
                "give a better one ('/set repetition_guard false' lets it go on)"
            )
        if conversation.n_dropped > dropped:
            self.note(
                f"note: the context was full: the model no longer sees the {conversation.n_dropped} oldest messages"
            )
        context = conversation.engine.config.context_length
        if turn.context_left < context / 4:
            self.note(f"note: {turn.context_left} of the context's {context} tokens are left")
        if not self.interactive:
            self.note(turn.statistics)

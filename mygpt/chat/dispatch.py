"""What a typed text does: it runs a slash command, or it is a message to the model."""

from __future__ import annotations

import os

from mygpt.chat.multiline import unquote
from mygpt.chat.session import Session
from mygpt.chat.slash_commands import is_command, run_command
from mygpt.errors import ContextOverflowError, InputError, error_message


def dispatch(session: Session, text: str) -> bool:
    """Run the text as a command, or send it to the model. An error becomes a note, and the conversation goes on.

    Returns whether Ctrl-C stopped it.

    Raises:
        ContextOverflowError: the context is full, and `--on_overflow error` was given.
        KeyboardInterrupt: Ctrl-C in a session that is not interactive.
    """
    try:
        if (quoted := unquote(text)) is not None:
            if quoted.strip():
                session.say(quoted)
        elif is_command(text):
            run_command(session, text.strip())
        else:
            session.say(text[1:] if text.startswith("//") else text)
    except ContextOverflowError:
        raise
    except Exception as error:  # an unforeseen error must not cost the conversation either
        if not isinstance(error, InputError) and os.environ.get("MYGPT_DEBUG") == "1":
            raise
        session.failed += 1
        session.note(f"error: {error_message(error)}")
    except KeyboardInterrupt:
        if not session.interactive:
            raise
        return True
    return False

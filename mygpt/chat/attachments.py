"""Text files whose contents go before a message (`/read`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mygpt.engine.engine import Engine
from mygpt.errors import InputError

BYTES_PER_TOKEN = 64  # more than a token of any text has on average


@dataclass(frozen=True)
class Attachment:
    """A file's text; `n_tokens` without what stands around it."""

    name: str
    text: str
    n_tokens: int

    def __str__(self) -> str:
        return f"{self.name} ({self.n_tokens} tokens)"


def read_attachment(path: Path, engine: Engine) -> Attachment:
    """Read a text file that is to be sent to a model.

    Raises:
        InputError: it cannot be read, is no text, or is too long for the model's context.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a text file in it")
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no regular file; name a text file")
        size, context = path.stat().st_size, engine.config.context_length
        if size > context * BYTES_PER_TOKEN:
            raise InputError(
                f"{path}: {size / 1e6:.1f} MB do not fit the model's context of {context} tokens; take a part of it"
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8") from error
    if "\0" in text:
        raise InputError(f"{path} is no text: it holds a zero byte")
    if not text.strip():
        raise InputError(f"{path} is empty")
    n_tokens = len(engine.tokenizer.encode(text))
    if n_tokens >= context:
        raise InputError(
            f"{path}: its {n_tokens} tokens do not fit the model's context of {context}; take a part of it"
        )
    return Attachment(path.name, text, n_tokens)


def with_attachments(attachments: list[Attachment], message: str) -> str:
    """The message with the files before it, each under its name and fenced as Markdown."""
    return "\n\n".join([*map(_fenced, attachments), message])


def _fenced(attachment: Attachment) -> str:
    text, fence = attachment.text.rstrip("\n"), "```"
    while fence in text:
        fence += "`"
    return f"{attachment.name}:\n{fence}\n{text}\n{fence}"

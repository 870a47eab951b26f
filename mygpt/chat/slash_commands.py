"""The slash commands of `mygpt chat`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mygpt.chat.attachments import read_attachment
from mygpt.chat.models import describe
from mygpt.chat.multiline import QUOTES
from mygpt.chat.session import Session
from mygpt.errors import InputError
from mygpt.options.yaml_values import load_yaml

SUBMIT = "!submit"  # the line that sends a message of several lines
# Ollama's and llama.cpp's names, litgpt's, and what people type.
ALIASES = {
    "/?": "/help",
    **dict.fromkeys(("/bye", "/quit", "!quit", "!exit", "quit", "exit"), "/exit"),
}


@dataclass(frozen=True)
class Command:
    """A slash command: two texts for `/help`, and the function that gets the text after the command's name."""

    usage: str
    summary: str
    run: Callable[[Session, str], None]


def is_command(text: str) -> bool:
    """Whether a text is a command and not a message. `//` begins a message that begins with a slash."""
    return (text.startswith("/") and not text.startswith("//")) or text.strip() in ALIASES


def run_command(session: Session, text: str) -> None:
    """Run a command: its name, then what it takes.

    Raises:
        InputError: there is no such command, or it failed.
    """
    name, rest = [*text.split(maxsplit=1), ""][:2]
    name = ALIASES.get(name, name)
    if (command := COMMANDS.get(name)) is None:
        raise InputError(f"there is no command {name}; /help lists them (write /{name} to send it as a text)")
    if rest and command.usage == name:
        raise InputError(f"{name} takes nothing after it, there is {rest!r}")
    command.run(session, rest)


def _help(session: Session, _: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        session.note(f"{command.usage:<{width}}  {command.summary}")
    session.note(
        "Ctrl-C stops an answer; Ctrl-D, exit or quit alone in a line end the session.\n"
        "A text that begins with // is sent with one slash.\n"
        f"A message of several lines begins and ends with {QUOTES}. Alt-Enter makes a new line\n"
        f"too; after /multiline Enter does, and Alt-Enter or a line {SUBMIT} sends."
    )


def _exit(session: Session, _: str) -> None:
    session.done = True


def _clear(session: Session, _: str) -> None:
    session.conversation.clear()
    session.note("everything said is forgotten; the system message and the settings stay")


def _system(session: Session, text: str) -> None:
    conversation = session.conversation
    if text:
        conversation.system = None if text == '""' else text
    said = conversation.system
    session.note("there is no system message" if said is None else f"system message: {said}")


def _set(session: Session, text: str) -> None:
    if not text:
        return _show(session, text)
    name, _, value = text.partition(" ")
    if not value.strip():
        raise InputError("write /set NAME VALUE; /set alone lists the settings")
    session.conversation.change(**{name: _texts(value) if name == "stop" else _value(value)})
    session.note(f"{name}: {_as_yaml(session.conversation.settings[name])}")
    return None


def _texts(text: str) -> Any:
    """The value of `/set stop`: a list, a quoted text, or the text as it is (YAML would take `###` for a comment)."""
    text = text.strip()
    return _value(text) if text[0] in "[\"'" or text == "null" else text


def _value(text: str) -> Any:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]  # quoted as for a shell
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"the value is not YAML: {text} ({error}); put a text in quotes") from error
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)  # 1e-3 is a string in YAML 1.1
    return value


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).removesuffix("...\n").strip()


def _show(session: Session, _: str) -> None:
    for name, value in session.conversation.settings.items():
        session.note(f"{name}: {_as_yaml(value)}")
    _system(session, "")


def _regenerate(session: Session, _: str) -> None:
    conversation = session.conversation
    pieces = conversation.regenerate()
    said = next((m["content"] for m in reversed(conversation.messages) if m["role"] == "user"), None)
    if said is not None:
        session.note(f"another answer to: {_short(said)}")
    session.answer(pieces)


def _undo(session: Session, _: str) -> None:
    said = session.conversation.undo()
    if said is None:
        raise InputError("there is no turn to take back")
    session.note(f"taken back: {_short(said)}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def _save(session: Session, file: str) -> None:
    path = _path("/save", file)
    if not _may_write(session, path, file):
        return session.note(f"{file} stays as it is")
    session.conversation.save(path)
    session.written.add(path.resolve())
    return session.note(f"{len(session.conversation.messages)} messages saved to {file}")


def _may_write(session: Session, path: Path, file: str) -> bool:
    """Whether the file is new, or the user wants it overwritten.

    Raises:
        InputError: it is not, and there is nobody to ask.
    """
    if not path.is_file():
        return True
    if session.confirm is not None:
        return session.confirm(f"overwrite {file}?")
    if path.resolve() not in session.written:
        raise InputError(f"{file} is there already and is not overwritten; name another file, or remove it")
    return True


def _load(session: Session, file: str) -> None:
    session.conversation.load(_path("/load", file))
    session.note(f"{len(session.conversation.messages)} messages loaded from {file}")


def _path(command: str, file: str) -> Path:
    if not file:
        raise InputError(f"write {command} FILE")
    try:
        path = Path(file).expanduser()
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
    except RuntimeError as error:
        raise InputError(f"{file}: there is no such user's folder") from error
    except (OSError, ValueError) as error:  # too long a name, a zero byte in it
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file}: cannot be used ({reason}); name another file") from error
    return path


def _read(session: Session, file: str) -> None:
    if file == '""':
        session.attachments = []
    elif file:
        with session.conversation.interruptible():
            session.attachments.append(read_attachment(_path("/read", file), session.conversation.engine))
    waiting = ", ".join(map(str, session.attachments))
    session.note(
        f"your next message begins with {waiting}" if waiting else "no file waits for the next message"
    )


def _model(session: Session, name: str) -> None:
    models, conversation = session.models, session.conversation
    if models is None:
        raise InputError("this session has one model only")
    if name and name != models.name:
        try:
            models.switch(conversation, name)
        except KeyboardInterrupt:
            session.note(f"note: stopped; the model is still {models.name}")
            raise
    session.note(f"model: {describe(models.name, conversation.engine)}")


def _stats(session: Session, _: str) -> None:
    turn = session.conversation.last
    session.note(turn.statistics if turn else "nothing was said yet")


def _multiline(session: Session, _: str) -> None:
    session.multiline = not session.multiline
    how = f"a line {SUBMIT}, or Alt-Enter, sends" if session.multiline else "Enter sends"
    session.note(f"multi-line mode is {'on' if session.multiline else 'off'}: {how}")


COMMANDS = {
    command.usage.split()[0]: command
    for command in (
        Command("/help", "list the commands", _help),
        Command(
            "/exit",
            "end the session, as /bye, /quit, exit, quit and Ctrl-D do",
            _exit,
        ),
        Command("/clear", "forget everything said; the system message stays", _clear),
        Command("/system [TEXT]", 'show the system message, or change it ("" removes it)', _system),
        Command("/set [NAME VALUE]", "change a setting, or list them", _set),
        Command("/show", "list the settings and the system message", _show),
        Command("/regen", "another answer in place of the last", _regenerate),
        Command("/undo", "take the last turn back", _undo),
        Command("/read [FILE]", 'put a text file before your next message ("" puts it away)', _read),
        Command("/model [NAME]", "show the model, or go on with another one", _model),
        Command("/save FILE", "write messages and settings to a file", _save),
        Command("/load FILE", "go on with what /save wrote", _load),
        Command("/stats", "what the last answer took", _stats),
        Command("/multiline", "switch messages of several lines on or off", _multiline),
    )
}
FILE_COMMANDS = ("/read", "/save", "/load")

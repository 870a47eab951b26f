"""What is printed of any text: nothing in it controls the terminal, and no message fills the screen."""

import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mygpt.commands import _output
from mygpt.errors import InputError, RunError, error_message
from mygpt.messages import HIDDEN_TOKEN, LONGEST, for_output, one_line, printable, tell

HOSTILE = "a\x1b]0;title\x07\x1b]52;c;cm0gLXJm\x07b\x9b2J\x7f\u202ec\ud800"
SAFE = "a\\u001b]0;title\\u0007\\u001b]52;c;cm0gLXJm\\u0007b\\u009b2J\\u007f\\u202ec\\ud800"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_are_written_out() -> None:
    assert printable(HOSTILE) == SAFE
    assert printable("tab\tline\r\nline, ünï, 中文, 👩‍🚀, مرحبا") == "tab\tline\nline, ünï, 中文, 👩‍🚀, مرحبا"


@given(st.text(st.characters(), max_size=50))
def test_no_character_that_controls_a_terminal_is_left(text: str) -> None:
    left = [c for c in printable(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert set(left) <= {"\t", "\n"}


def test_a_pipe_gets_the_text_as_it_is() -> None:
    assert for_output(HOSTILE, io.StringIO()) == HOSTILE
    assert for_output(HOSTILE, Terminal()) == SAFE


@pytest.mark.parametrize(("out", "shown"), [(io.StringIO(), HOSTILE), (Terminal(), SAFE)])
def test_generate_writes_so(monkeypatch: pytest.MonkeyPatch, out: io.StringIO, shown: str) -> None:
    monkeypatch.setattr("sys.stdout", out)
    _output._write(HOSTILE)
    assert out.getvalue() == shown


@pytest.mark.parametrize("kind", [InputError, RunError, ValueError])
def test_an_error_is_one_line_of_bounded_length(kind: type[Exception]) -> None:
    message = error_message(kind(f"tensor {HOSTILE}\n has no place;{'x' * 10**6}; take another file"))
    assert SAFE in message
    assert "take another file" in message
    assert "\n" not in message
    assert len(message) < LONGEST + 100


def test_a_message_of_usual_length_is_whole() -> None:
    assert one_line("word " * 150) == ("word " * 150).strip()


def test_a_token_is_in_no_message(capsys: pytest.CaptureFixture[str]) -> None:
    tell("downloading x with hf_s3cretS3cretS3cretS3cret")
    assert capsys.readouterr().err == f"downloading x with {HIDDEN_TOKEN}\n"


def test_every_line_on_standard_error_goes_through_it() -> None:
    """`print(…, file=sys.stderr)` is left where the text is mygpt's own and part of a line."""
    from tests.test_imports import MODULES

    printing = re.compile(r"print\((?:[^()]|\([^()]*\))*file=sys\.stderr")
    found = {name for name, path in MODULES.items() if printing.search(path.read_text(encoding="utf-8"))}
    own = {
        "mygpt.messages",
        "mygpt.__main__",  # a newline after ^C
        "mygpt.chat.display",  # notes of several lines, printable
        "mygpt.commands.rm",  # a question, printable
        "mygpt.loading.compile",
        "mygpt.parallel.supervisor",
    }
    assert found == own

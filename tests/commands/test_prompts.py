"""Where `mygpt generate` gets its prompts from: the option, standard input, a file of rows, or its default."""

import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mygpt.__main__ import main
from mygpt.commands import _prompts
from mygpt.commands._prompts import DEFAULT_PROMPT, Request, read_requests
from mygpt.errors import InputError
from tests.models import write_model


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make a file descriptor the standard input."""

    def use(descriptor: int) -> None:
        monkeypatch.setattr(sys, "stdin", os.fdopen(descriptor, encoding="utf-8"))

    return use


def pipe_of(text: str) -> int:
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    return reader


def test_a_pipe_is_the_prompt(stdin: Callable[[int], None]) -> None:
    stdin(pipe_of("Where is Rome?\n"))
    assert read_requests(None, None) == [Request("Where is Rome?")]


def test_so_is_a_redirected_file(stdin: Callable[[int], None], tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Two\nlines\n")
    stdin(os.open(tmp_path / "prompt.txt", os.O_RDONLY))
    assert read_requests(None, None) == [Request("Two\nlines")]


def test_what_is_piped_must_be_text(stdin: Callable[[int], None]) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"caf\xe9 ...")
    os.close(writer)
    stdin(reader)
    with pytest.raises(InputError, match=r"standard input is not text .*; write the prompt in UTF-8"):
        read_requests("-", None)


@pytest.mark.parametrize("empty", ["", "\n"])
def test_an_empty_pipe_is_none(stdin: Callable[[int], None], empty: str) -> None:
    stdin(pipe_of(empty))
    assert read_requests(None, None) == [Request(DEFAULT_PROMPT)]


def test_the_default_prompt(stdin: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    """litgpt has one, so the commands of its pages run as they stand; a line says which it is."""
    stdin(os.open(os.devnull, os.O_RDONLY))
    assert read_requests(None, None) == [Request(DEFAULT_PROMPT)]
    assert DEFAULT_PROMPT in capsys.readouterr().err


def test_without_a_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in (None, io.StringIO("text of no file")):
        monkeypatch.setattr(sys, "stdin", nothing)
        assert read_requests(None, None) == [Request(DEFAULT_PROMPT)]


@pytest.mark.skipif(sys.platform == "win32", reason="cannot wait for a pipe there")
def test_a_pipe_that_nobody_writes_to(
    stdin: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a program that starts mygpt may leave it: it must not hang."""
    monkeypatch.setattr(_prompts, "PIPE_WAIT_S", 0.05)
    reader, writer = os.pipe()
    stdin(reader)
    assert read_requests(None, None) == [Request(DEFAULT_PROMPT)]
    assert "--prompt - waits for it" in capsys.readouterr().err
    os.close(writer)


def test_a_pipe_that_is_asked_for_is_waited_for(
    stdin: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_prompts, "PIPE_WAIT_S", 0.0)
    reader, writer = os.pipe()
    stdin(reader)

    def write() -> None:
        time.sleep(0.2)
        os.write(writer, b"late")
        os.close(writer)

    threading.Thread(target=write).start()
    assert read_requests("-", None) == [Request("late")]


@pytest.mark.parametrize("empty", ["", "\n"])
def test_a_pipe_that_is_asked_for_and_empty(stdin: Callable[[int], None], empty: str) -> None:
    """As `git diff | mygpt generate -p - --sys_prompt "Explain"` where nothing has changed."""
    stdin(pipe_of(empty))
    with pytest.raises(InputError, match="standard input is empty"):
        read_requests("-", None)


def test_rows_from_a_pipe(stdin: Callable[[int], None]) -> None:
    stdin(pipe_of('{"prompt": "a"}\n{"prompt": "b", "id": 2}\n'))
    assert read_requests(None, Path("-")) == [Request("a"), Request("b", 2)]


def test_two_ways_to_ask() -> None:
    with pytest.raises(InputError, match="give one of them"):
        read_requests("a", Path("rows.jsonl"))


def rows(path: Path, *content: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def test_ids_and_options_of_rows(tmp_path: Path) -> None:
    file = rows(
        tmp_path / "rows.jsonl", {"id": 7, "prompt": "a", "temperature": 0, "stop": "x"}, {"messages": []}
    )
    first, second = read_requests(None, file)
    assert first == Request("a", 7, {"temperature": 0, "stop": ["x"]})
    assert second == Request([])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "temprature": 1}, "there is no key 'temprature'"),
        ({"prompt": "a", "temperature": "hot"}, "temperature must be a number"),
        ({"prompt": "a", "temperature": -1}, "line 1: temperature must be 0 or above"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens must be 1 or above"),
        ({"prompt": "a", "settings": 5}, "'settings' must be an object"),
        ({"prompt": "a", "messages": 5}, '{"prompt": "..."}'),
        ({"prompt": "a", "num_samples": 2}, "there is no key 'num_samples'"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, row: dict, says: str) -> None:
    with pytest.raises(InputError) as error:
        read_requests(None, rows(tmp_path / "rows.jsonl", row))
    assert says in str(error.value) and "line 1" in str(error.value)


def test_a_saved_conversation_is_a_row(tmp_path: Path) -> None:
    from mygpt.options import ChatOptions, Sampling

    settings = {**vars(ChatOptions(max_new_tokens=5)), **vars(Sampling(temperature=0.0))}
    del settings["sys_prompt"]
    file = rows(
        tmp_path / "chat.json", {"messages": [{"role": "user", "content": "Hi"}], "settings": settings}
    )
    (request,) = read_requests(None, file)
    assert request.options["max_new_tokens"] == 5
    assert request.options["temperature"] == 0.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "llama")


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    capfd.readouterr()
    assert main(["generate", *map(str, arguments), "--precision", "32-true"]) == 0
    return capfd.readouterr()


def test_each_row_is_as_if_it_ran_alone(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = rows(
        tmp_path / "rows.jsonl",
        {"id": "one", "prompt": "Hello", "temperature": 0, "max_new_tokens": 4},
        {"id": {"n": 2}, "prompt": "Hello", "seed": 5, "top_k": 3, "sys_prompt": "Be kind"},
        {"prompt": "Hello"},
    )
    common = (folder, "--json", "true", "--max_new_tokens", "6", "--seed", "9", "--num_samples", "2")
    out, _ = run(capfd, *common, "--prompts", file)
    samples = [json.loads(line) for line in out.splitlines()]
    assert [sample.get("id") for sample in samples] == ["one", "one", {"n": 2}, {"n": 2}, None, None]
    alone = [
        ("--temperature", "0", "--max_new_tokens", "4"),
        ("--seed", "5", "--top_k", "3", "--sys_prompt", "Be kind"),
        (),
    ]
    expected = []
    for options in alone:
        out, _ = run(capfd, *common, "--prompt", "Hello", *options)
        expected += [json.loads(line)["token_ids"] for line in out.splitlines()]
    assert [sample["token_ids"] for sample in samples] == expected
    assert len(samples[0]["token_ids"]) <= 4 < len(samples[4]["token_ids"])


def test_answers_of_a_file_are_separated(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An answer may have several lines itself. With batches of one too."""
    file = rows(tmp_path / "rows.jsonl", *({"prompt": text} for text in "abc"))
    common = (folder, "--max_new_tokens", "6", "--seed", "9")
    texts = [run(capfd, *common, "--prompt", text)[0] for text in "abc"]
    for size in ("1", "3"):
        assert run(capfd, *common, "--prompts", file, "--batch_size", size)[0] == "\n".join(texts)


def test_an_answer_that_is_cut_is_told(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = (folder, "--prompt", "Hello", "--seed", "1")
    _, err = run(capfd, *common, "--max_new_tokens", "6")
    assert err.splitlines()[1:] == ["the answer was cut after 6 tokens: --max_new_tokens 12 lets it go on"]
    _, err = run(capfd, *common, "--max_new_tokens", "5000")
    assert "cut after 102 tokens: the model's context of 128 tokens is full" in err
    _, err = run(capfd, *common, "--max_new_tokens", "6", "--num_samples", "2")
    assert "answer 0 was cut" in err and "answer 1 was cut" in err


def test_a_base_model_stops_early_by_default(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It would go on forever; a chat model ends by itself and gets more room."""
    base = write_model(tmp_path / "base", chat=False)
    out, _ = run(capfd, base, "--prompt", "Hello", "--json", "true", "--seed", "1")
    assert json.loads(out)["new_tokens"] == 50
    chat = write_model(tmp_path / "chat")
    out, err = run(capfd, chat, "--prompt", "Hello", "--json", "true", "--seed", "1")
    assert json.loads(out)["new_tokens"] == 102 and "context of 128 tokens is full" in err

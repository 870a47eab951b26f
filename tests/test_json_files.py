"""Small files of a repository are read whole where they are what they must be; all else is refused by name."""

import os
import sys
from pathlib import Path

import pytest

from mygpt import json_files
from mygpt.errors import InputError
from mygpt.json_files import is_file, read_bytes, read_json, read_start, read_text

SPECIAL = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes and devices with a name")
@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("read", [is_file, read_bytes, read_text, read_json])
def test_special_files_are_refused_by_name_and_nothing_waits_for_them(tmp_path: Path, read, make):
    make(tmp_path / "some.json")
    with pytest.raises(InputError, match=r"some\.json (is no regular file|cannot be read)"):
        read(tmp_path / "some.json")


def test_what_is_not_there_is_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "none", tmp_path / "dangling", tmp_path / "file" / "none"):
        assert not is_file(path)
        assert (read_bytes(path), read_text(path), read_json(path)) == (None, None, {})


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its mode would not keep root from reading it."""

    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    path = tmp_path / "some.json"
    path.touch()
    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_bytes, read_text, read_json, read_start):
        with pytest.raises(
            InputError, match=r"some\.json cannot be read \(Permission denied\): make it readable"
        ):
            read(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "some.json"
    with path.open("wb") as file:
        file.truncate(json_files.MAX_BYTES + 1)  # takes no space
    with pytest.raises(InputError, match=r"some\.json is larger than 256 MB"):
        read_json(path)
    assert len(read_start(path, 10)) == 10


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a":' * 10**5,
        b"[" * 10**5 + b"]" * 10**5,
        b'{"a": "\\ud800"}',
        b'{"\\udc00\\ud800": 1}',
        b'{"a": "\xff"}',
        b"\xff\xfe{\x00}\x00",
    ],
    ids=[
        "cut off",
        "5,000 digits",
        "deep objects",
        "deep lists",
        "half a pair",
        "in a key",
        "Latin-1",
        "UTF-16",
    ],
)
def test_what_is_no_json_is_refused_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(InputError, match=r"some\.json is not valid JSON") as error:
        read_json(tmp_path / "some.json")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("content", ["[1]", "1", "null", '"a"', "NaN"])
def test_json_that_is_no_object_is_refused_by_name(tmp_path: Path, content: str):
    (tmp_path / "some.json").write_text(content)
    with pytest.raises(InputError, match=r"some\.json does not hold a JSON object"):
        read_json(tmp_path / "some.json")


def test_pairs_of_surrogates_and_infinity_are_read(tmp_path: Path):
    """Configs of Falcon-H1 have `Infinity`; Python itself writes an emoji as a pair."""
    (tmp_path / "some.json").write_text('{"a": "\\ud83d\\ude42", "b": Infinity}')
    assert read_json(tmp_path / "some.json") == {"a": "🙂", "b": float("inf")}

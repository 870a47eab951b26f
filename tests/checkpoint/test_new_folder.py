"""The folder that `convert` makes: refused before any work, one line each, nothing left of a failure."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from mygpt.__main__ import main
from mygpt.checkpoint import disk
from mygpt.checkpoint.convert import convert
from mygpt.checkpoint.index import TOKENIZER_FILES
from mygpt.checkpoint.new_folder import new_folder
from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError, RunError
from mygpt.quantize.formats.bnb import MODES
from tests.models import write_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama") / "model", "llama")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@contextmanager
def nothing_new(folder: Path) -> Iterator[None]:
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("x" * 5000, "File name too long"),
        ("x" * 250, "File name too long"),  # its partial folder's name
        ("x" * 300 + "/out", "File name too long"),
        ("file/out", "Not a directory"),
        ("file/sub/out", "Not a directory"),
        ("link", "link exists"),
        ("loop/out", "Too many levels of symbolic links"),
        (".", "exists"),
        ("", "exists"),
        ("/", "exists"),
        ("~nobody_of_this_name/out", "no such folder: '~nobody_of_this_name/out'"),
        ("a\0b", "null"),
    ],
)
def test_a_target_that_cannot_be(
    llama: Path, work: Path, capsys: pytest.CaptureFixture[str], target: str, message: str
) -> None:
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    with nothing_new(work):
        assert main(["convert", str(llama), target]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_it_is_refused_before_the_source_is_looked_for(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "nobody/nothing", "x" * 5000]) == 2
    assert "File name too long" in capsys.readouterr().err


def full(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 10**6) -> None:
    usage = SimpleNamespace(total=total, free=free)
    monkeypatch.setattr(disk, "shutil", SimpleNamespace(disk_usage=lambda folder: usage))


@pytest.mark.parametrize("quantize", [False, True])
def test_room_is_looked_for_first(
    llama: Path, work: Path, monkeypatch: pytest.MonkeyPatch, quantize: bool
) -> None:
    """What is quantized takes less, and is not refused for what the floats would take."""
    scheme = MODES["bnb.int8"] if quantize else None
    convert(open_checkpoint(llama), work / "fits", scheme=scheme)
    size = (work / "fits" / "model.safetensors").stat().st_size
    with nothing_new(work):
        full(monkeypatch, free=size // 2)
        with pytest.raises(RunError, match=r"out takes 0\.\d MB, but the disk of .* has 0\.\d MB left; free"):
            convert(open_checkpoint(llama), work / "out", scheme=scheme)
    full(monkeypatch, free=size)
    convert(open_checkpoint(llama), work / "out", scheme=scheme)
    full(monkeypatch, free=0, total=0)  # as some network drives say
    convert(open_checkpoint(llama), work / "network", scheme=scheme)


@pytest.mark.parametrize("name", TOKENIZER_FILES)
@pytest.mark.parametrize("kind", ["zero", "pipe", "folder"])
def test_special_files_are_not_copied(llama: Path, work: Path, name: str, kind: str) -> None:
    """A device has no end, and a pipe waits for its writer."""
    model = shutil.copytree(llama, work / "model")
    (model / name).unlink(missing_ok=True)
    if kind == "zero":
        (model / name).symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(model / name)
    else:
        (model / name).mkdir()
    with nothing_new(work), pytest.raises(InputError, match=rf"{name} is no regular file"):
        convert(open_checkpoint(model), work / "out")


def test_links_to_files_are_copied(llama: Path, work: Path) -> None:
    """As folders of the Hugging Face cache have them."""
    for file in llama.iterdir():
        Path("links").mkdir(exist_ok=True)
        Path("links", file.name).symlink_to(file)
    convert(open_checkpoint(Path("links")), work / "out")
    assert not (work / "out" / "tokenizer.json").is_symlink()
    assert (work / "out" / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


def test_another_process_writes_it(work: Path) -> None:
    Path(".out.partial").mkdir()
    with (
        FileLock(".out.lock"),
        pytest.raises(InputError, match=r"another process is writing .*out; wait until"),
        new_folder(work / "out", 0),
    ):
        pass
    assert Path(".out.partial").is_dir()  # of the other
    with new_folder(work / "out", 0):  # which was killed
        pass
    assert sorted(path.name for path in work.iterdir()) == ["out"]


def test_another_program_makes_it_meanwhile(work: Path) -> None:
    with pytest.raises(InputError, match="out exists"), new_folder(work / "out", 0) as partial:
        (partial / "file").touch()
        (work / "out").mkdir()
        (work / "out" / "theirs").touch()
    assert sorted(path.name for path in work.rglob("*")) == ["out", "theirs"]

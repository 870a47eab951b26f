"""The fuzzer notices what it is to notice, makes the same cases again, and follows no link."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mygpt.families import FAMILIES
from tests.fuzz import gguf_file, mutate_bytes, values
from tests.fuzz.bases import Bases, build
from tests.fuzz.case import OUTSIDE, Case, Fifo, Folder, Link, Unreadable, remove, write_files
from tests.fuzz.child import Place, server_environment
from tests.fuzz.kinds import KINDS, make_case, numbers
from tests.fuzz.planted import PLANTED
from tests.fuzz.tally import Tally
from tests.fuzz.verdict import BAD, FAILED, OK, REFUSED, Verdict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks, and sets Linux's limits")
ROOT = Path(__file__).parents[2]
NOTICED = {
    "answer": (OK, ""),
    "limited": (OK, ""),
    "python": (OK, ""),
    "refusal": (REFUSED, "error: no such file: 'x'; name another"),
    "not finite": (FAILED, "not finite"),
    "crash": (BAD, "died of SIGSEGV"),
    "hang": (BAD, "time-out"),
    "hang in a grandchild": (BAD, "time-out"),
    "spin": (BAD, "time-out"),
    "panic": (BAD, "Traceback"),
    "thread panics": (BAD, "Exception in"),
    "orphan": (BAD, "1 processes left"),
    "outside": (BAD, "outside of its folder: outside/ holds canary, pwned"),
    "canary": (BAD, "outside of its folder"),
    "unexpected": (BAD, "unexpected KeyError"),
    "other failure": (BAD, "error: something else"),
    "two lines": (BAD, "2 error lines"),
    "no line": (BAD, "exit code 2 and the last line is no error"),
    "not last": (BAD, "exit code 2 and the last line is no error"),
    "long": (BAD, "an error line of 5007 bytes"),
    "escape code": (BAD, "control characters"),
    "note with an escape code": (BAD, "control characters"),
    "warning": (BAD, "warning UserWarning: deprecated"),
    "error and 0": (BAD, "exit code 0 with an error"),
    "interrupted": (BAD, "exit code 130"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    build(folder)
    return folder


def python(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.fixture
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cases' user may come, as it may not into pytest's own folders."""
    folder = tmp_path_factory.mktemp("open")
    for parent in folder.parents[:2]:  # pytest-N and pytest-of-USER
        parent.chmod(0o711)
    return folder


def test_a_case_knows_nothing_of_the_user(tmp_path: Path) -> None:
    found = server_environment(Place(tmp_path), {"PATH": "/bin", "HF_TOKEN": "hf_secret", "HOME": "/home/me"})
    assert found["PATH"] == "/bin"
    assert "HF_TOKEN" not in found
    assert found["HOME"] == str(tmp_path / "case/home")


@pytest.mark.parametrize("name", PLANTED)
def test_what_a_case_does_is_noticed(name: str, open_folder: Path) -> None:
    done = python("-m", "tests.fuzz.planted", name, str(open_folder))
    assert done.returncode == 0, done.stderr
    word, message = json.loads(done.stdout)
    assert word == NOTICED[name][0], message
    assert NOTICED[name][1] in message


def test_one_bad_case_fails_the_run_and_is_named(bases: Path) -> None:
    command = ("-m", "tests.fuzz", "--bases", str(bases), "--seed", "7", "--mutations", "4", "--jobs", "2")
    crashed = python(*command, "--call", "tests.fuzz.planted:crash")
    assert crashed.returncode == 1
    summary = json.loads(crashed.stdout.splitlines()[-1])
    assert (summary["seed"], summary["mutations"], summary["bad"], summary["bad_groups"]) == (7, 4, 4, 4)
    kind = make_case(7, 0, Bases(bases)).kind
    assert f"bad, 1 as {kind} 7:0\n  died of SIGSEGV in {kind}" in crashed.stdout
    good = python(*command, "--call", "tests.fuzz.planted:answer")
    assert (good.returncode, json.loads(good.stdout.splitlines()[-1])["ok"]) == (0, 4)


def test_one_case_is_run_alone_and_kept(bases: Path) -> None:
    done = python(
        "-m", "tests.fuzz", "--bases", str(bases), "--case", "7:3", "--call", "tests.fuzz.planted:crash"
    )
    assert done.returncode == 1
    folder = Path(done.stdout.split("made in ")[1].splitlines()[0])
    try:
        case = make_case(7, 3, Bases(bases))
        assert f"case 7:3 of {case.kind}" in done.stdout
        for name, entry in case.files.items():
            if isinstance(entry, bytes):
                assert (folder / "job0/case/run" / name).read_bytes() == entry
    finally:
        remove(folder)


def test_the_same_seed_makes_the_same_cases(bases: Path) -> None:
    """In another process too, where sets and hashes have another order."""
    code = (
        "import hashlib, sys; from pathlib import Path; from tests.fuzz.bases import Bases; "
        "from tests.fuzz.kinds import make_case; bases = Bases(Path(sys.argv[1])); "
        "print(hashlib.sha256(b''.join(ascii(make_case(int(sys.argv[2]), n, bases)).encode() "
        "for n in range(60))).hexdigest())"
    )
    first, again, other = (
        python("-c", code, str(bases), seed, PYTHONHASHSEED=hashes) for seed, hashes in ("31", "31", "42")
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout != other.stdout


def test_every_family_and_every_kind_comes(bases: Path) -> None:
    made = Bases(bases)
    assert {name.removeprefix("family/") for name in made.under("family/")} == FAMILIES.keys()
    kinds = [make_case(1, number, made).kind for number in range(300)]
    assert set(kinds) == set(KINDS)
    assert numbers(1, ["gguf"], 3) == [number for number, kind in enumerate(kinds) if kind == "gguf"][:3]


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Neither when a case's files are written nor when they are removed."""
    outside, folder = tmp_path / "outside", tmp_path / "case"
    for path in (outside, folder):
        path.mkdir()
    (outside / "precious").write_text("x")
    case = Case("", {}, [])
    case.files = {
        "a": Link(str(outside)),
        "b": Link(OUTSIDE),
        "c": Fifo(),
        "d": Folder(),
        "e": Unreadable(b"x"),
    }
    case.files["deep/f"] = Link("/dev/zero")
    write_files(case, folder, outside / "precious")
    assert (folder / "a").is_symlink()
    assert (folder / "b").readlink() == outside / "precious"
    (folder / "d").chmod(0)
    remove(folder)
    assert not folder.exists()
    assert (outside / "precious").read_text() == "x"
    link = tmp_path / "link"
    link.symlink_to(outside)
    with pytest.raises(ValueError, match="is no folder"):
        remove(link)
    assert (outside / "precious").exists()


def test_a_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "precious").write_text("x")
    case = Case("", {"a": b"overwritten"}, [])
    (tmp_path / "case" / "a").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_files(case, tmp_path / "case", tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_values_are_written_as_json_that_is_wrong_on_purpose() -> None:
    twice = values.Twice("a")
    twice.other = values.Raw("9" * 5000)
    assert values.dump({twice: [1, None]}) == '{"a": [1, null], "a": ' + "9" * 5000 + "}"
    assert values.dump(["\ud800", float("nan")]) == '["\\ud800", NaN]'


def test_a_mutation_changes_something() -> None:
    root = {"a": [1, 2, {"b": "x"}], "c": None, "d": 0.5}
    same = [values.dump(values.mutate(random.Random(i), root)[0]) == values.dump(root) for i in range(200)]
    assert sum(same) < 10  # a value may be drawn that is there already
    content = bytes(range(256)) * 20
    assert sum(mutate_bytes.mutate(random.Random(i), content)[0] == content for i in range(200)) < 20


def test_a_gguf_file_is_written_as_it_was_read(bases: Path) -> None:
    content = Bases(bases).get("gguf/Q4_0")["model.gguf"]
    assert gguf_file.write(gguf_file.read(content)) == content


def test_messages_that_differ_in_names_and_numbers_are_one_group() -> None:
    tally = Tally(1)
    for number, text in enumerate(
        ("/a/run/x.json: no key 'b' in 3 rows", "/c/run/x.json: no key 'd\\'e' in 14 rows")
    ):
        tally.add(number, "config", Verdict(BAD, text))
    assert [list(group) for group in tally.groups.values()] == [["x.json: no key '…' in N rows"]]

"""`mygpt list` and `mygpt rm`: what is shown, asked and refused. (tests/hub/test_inventory.py has what is found.)"""

import io
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from mygpt.__main__ import main
from mygpt.commands._words import columns, path_text, size_text
from tests.hub.caches import CONFIG, DEFAULT, HUB_SIZE, MODEL, SIZE, Caches, used, write
from tests.test_imports import modules_after


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caches:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return Caches(tmp_path, monkeypatch)


@pytest.fixture
def full(caches: Caches) -> Caches:
    """A model in each cache, one of them in two, another half a one; compiled code."""
    write(caches.checkpoints / "owner" / "model")
    caches.store("owner/model")
    caches.store("owner/half", {"config.json": CONFIG})
    write(caches.own / "SmolLM2-135M-Instruct", {**MODEL, "model.safetensors": bytes(2_000_000)})
    write(caches.own / "kernels", {"a.so": bytes(100)})
    return caches


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    return (code, *capsys.readouterr())


def test_list_says_what_to_do_where_there_is_nothing(
    caches: Caches, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "list")
    assert (code, err) == (0, "")
    assert str(caches.hub) in out
    assert str(caches.own) in out
    assert "mygpt download REPO" in out


def test_list_is_a_table(full: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    used(full.checkpoints / "owner" / "model" / "model.safetensors", 1_000_000_000)
    _, out, _ = run(capsys, "list")
    lines = out.splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "FAMILY", "STATE", "LAST", "USED"]
    assert lines[1].split()[:5] == [DEFAULT, "2.0", "MB", "llama", "complete"]
    assert lines[2].split()[:4] == ["owner/half", str(len(CONFIG) + 6), "B", "llama"]
    assert "incomplete" in lines[2]
    assert lines[3] == "  lacks tokenizer.json, model.safetensors"
    assert lines[4].split()[-1] == "2001-09-09"
    assert lines[4].index("llama") == lines[1].index("llama")
    assert "kernels: 100 B" in out
    assert "Together 2.0 MB" in out
    assert str(full.work.parent) not in out


def test_list_with_paths(full: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "list", "--paths", "true")
    assert f"  {full.own / 'SmolLM2-135M-Instruct'}\n" in out
    assert "  checkpoints/owner/model\n" in out


def test_list_as_json(full: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    weights = full.checkpoints / "owner" / "model" / "model.safetensors"
    used(weights, 1_000_000_000)
    content = json.loads(run(capsys, "list", "--json", "true")[1])
    assert content["models"][2] == {
        "name": "owner/model",
        "place": "checkpoints",
        "size_bytes": SIZE,
        "family": "llama",
        "supported": True,
        "complete": True,
        "missing": [],
        "note": None,
        "last_used": datetime.fromtimestamp(1_000_000_000, timezone.utc).isoformat(),
        "path": "checkpoints/owner/model",
    }
    assert [model["complete"] for model in content["models"]] == [True, False, True, True]
    assert [entry["name"] for entry in content["compiled"]] == ["kernels"]
    parts = [*content["models"], *content["compiled"]]
    assert content["total_bytes"] == sum(part["size_bytes"] for part in parts)


def test_rm_without_a_terminal_needs_yes(full: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    before = full.files()
    code, out, err = run(capsys, "rm", DEFAULT)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "--yes true" in err
    assert "2.0 MB" in err
    assert full.files() == before


def test_rm_takes_a_model_from_all_caches(full: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "rm", "owner/model", "kernels", "--yes", "true")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "removed owner/model from ./checkpoints (5.1 kB)",
        "removed owner/model from the Hugging Face cache (5.1 kB)",
        "removed kernels from mygpt's cache (100 B)",
    ]
    assert not any("model--" in path or "checkpoints" in path or ".so" in path for path in full.files())
    assert any("half" in path for path in full.files())
    assert (full.own / "SmolLM2-135M-Instruct").is_dir()


@pytest.mark.parametrize(
    ("answer", "goes"), [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_rm_asks_on_a_terminal(
    full: Caches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, goes: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, out, err = run(capsys, "rm", DEFAULT)
    assert code == 0
    assert err.startswith(f"remove {DEFAULT} from mygpt's cache (2.0 MB)? [y/N] ")
    assert (full.own / "SmolLM2-135M-Instruct").exists() != goes
    assert out.startswith("removed") if goes else err.endswith("nothing removed\n")


def test_rm_interrupted_ends_its_line(
    full: Caches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    terminal = Terminal()
    monkeypatch.setattr(terminal, "readline", interrupt)
    monkeypatch.setattr(sys, "stdin", terminal)
    before = full.files()
    code, _, err = run(capsys, "rm", DEFAULT)
    assert code == 130
    assert err.endswith("[y/N] \n")
    assert full.files() == before


def test_rm_names_all_before_it_asks(
    full: Caches, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    lines = run(capsys, "rm", "owner/model")[2].splitlines()
    assert lines[:2] == [
        "owner/model from ./checkpoints (5.1 kB)",
        "owner/model from the Hugging Face cache (5.1 kB)",
    ]
    assert lines[2].startswith(f"remove these 2 ({size_text(SIZE + HUB_SIZE)})? [y/N]")


def test_rm_says_that_a_link_leads_elsewhere(
    caches: Caches, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches.checkpoints.mkdir()
    (caches.checkpoints / "linked").symlink_to(write(tmp_path / "elsewhere"))
    _, out, _ = run(capsys, "rm", "linked", "--yes", "true")
    assert out == "removed the link checkpoints/linked (what it leads to stays)\n"
    assert (tmp_path / "elsewhere" / "config.json").is_file()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("owner/modle", "did you mean owner/model?"),
        ("SmolLM2-135M-Instruct", f"did you mean {DEFAULT}?"),
        ("smollm2-135m-instruct", f"did you mean {DEFAULT}?"),
        ("kernel", "did you mean kernels?"),
        ("quite/another", "'mygpt list' shows what there is"),
        ("..", "there is no '..'"),
        ("", "there is no ''"),
        ("owner", "there is no 'owner'"),
        ("owner/../owner/model", "there is no"),
        ("../work/checkpoints/owner/model", "there is no"),
        ("./checkpoints/owner/model", "there is no"),
    ],
)
def test_rm_takes_only_names_of_the_list(
    full: Caches, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    before = full.files()
    code, out, err = run(capsys, "rm", "kernels", name, "--yes", "true")
    assert (code, out) == (2, "")
    assert err.startswith("error: there is no ")
    assert says in err
    assert err.count("\n") == 1
    assert full.files() == before  # nothing of the other name either


def test_rm_refuses_absolute_paths(full: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    before = full.files()
    for path in (full.checkpoints / "owner" / "model", full.own, full.own / "kernels"):
        assert run(capsys, "rm", str(path), "--yes", "true")[0] == 2
    assert full.files() == before


def test_rm_removes_nothing_if_one_of_them_must_stay(
    full: Caches, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "elsewhere" / "model")
    (full.checkpoints / "linked").symlink_to(tmp_path / "elsewhere")
    before = full.files()
    code, out, err = run(capsys, "rm", "kernels", "linked/model", "--yes", "true")
    assert (code, out) == (2, "")
    assert "behind a link" in err
    assert full.files() == before


def test_rm_wants_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "rm", "--yes", "true")
    assert code == 2
    assert "NAMES must be given" in err


@pytest.mark.parametrize("command", ["['list']", "['rm', 'no/such', '--yes', 'true']"])
def test_no_torch(full: Caches, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(full.hub))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    modules = modules_after(f"from mygpt.__main__ import main; main({command})")
    assert "mygpt.hub.inventory" in modules
    assert not modules & {"torch", "lightning", "transformers", "numpy", "rich"}


def test_sizes() -> None:
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_900: "100 kB", 999_499: "999 kB", 999_500: "1.0 MB"}
    sizes |= {269_060_552: "269 MB", 999_900_000: "1.0 GB", 15_000_000_000: "15.0 GB", 10**16: "10000.0 TB"}
    assert {size: size_text(size) for size in sizes} == sizes


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    paths = {
        "/home/ada": "~",
        "/home/ada/x": "~/x",
        "/home/adam/x": "/home/adam/x",
        "checkpoints": "checkpoints",
    }
    assert {path: path_text(Path(path)) for path in paths} == paths


def test_columns() -> None:
    assert columns([("a", "1", "x"), ("bbb", "22", "")], right=(1,)) == ["a     1  x", "bbb  22"]

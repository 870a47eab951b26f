"""Short names of well-known models."""

import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from mygpt.errors import InputError
from mygpt.families import FAMILIES
from mygpt.hub.resolve import CHECKPOINTS, download, find, find_config, resolve
from mygpt.hub.short_names import SHORT_NAMES, repo_of, suggestion
from tests.fake_hub import FakeHub, Repo
from tests.hub.test_resolve import SMALL, WEIGHTS, write_model

NAMES = {name: (kind, repo) for kind, names in SHORT_NAMES.items() for name, repo in names.items()}
QWEN = "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_of_a_supported_family(name: str) -> None:
    kind, repo = NAMES[name]
    assert re.fullmatch(r"[a-z0-9.-]+", name)
    assert repo.count("/") == 1
    assert kind in FAMILIES
    others = {example for key, family in FAMILIES.items() if key != kind for example in family.examples}
    assert repo not in others  # it would be of another family there
    assert repo_of(name) == repo


def test_names_are_told_apart() -> None:
    spelled = [re.sub("[-_:]", "", name) for name in NAMES]
    assert len(spelled) == len(set(spelled)) == sum(map(len, SHORT_NAMES.values()))


@pytest.mark.parametrize("name", ["qwen3-0.6b", "Qwen3-0.6B", "qwen3:0.6b", "QWEN3_0.6b"])
def test_spellings(name: str) -> None:
    assert repo_of(name) == QWEN


@pytest.mark.parametrize("name", ["qwen3", QWEN, "owner/qwen3-0.6b", "", "./qwen3-0.6b", "qwen3-06b"])
def test_other_names_are_none(name: str) -> None:
    assert repo_of(name) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_resolved_like_its_repository(
    fake: FakeHub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    repo = NAMES[name][1]
    fake.repos[repo] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    assert find(name) is None
    assert capsys.readouterr().err == ""  # a command asks twice, and tells once
    folder = resolve(name)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert capsys.readouterr().err.startswith(f"{name} is {repo}\ndownloading {repo} from ")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find(name) == resolve(name) == resolve(repo) == folder
    assert capsys.readouterr().err == ""


def test_the_config_and_the_download_command_know_them(fake: FakeHub) -> None:
    fake.repos[QWEN] = Repo({**SMALL, "model.safetensors": WEIGHTS})
    assert find_config("qwen3:0.6b").read_bytes() == SMALL["config.json"]
    assert download("qwen3-0.6b", checkpoint_dir=Path("here")).samefile(Path("here") / QWEN)


def test_what_has_that_very_name_comes_first(
    fake: FakeHub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    snapshot = write_model(Path(constants.HF_HUB_CACHE, "models--gpt2", "snapshots", "1" * 40))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1" * 40)
    assert resolve("gpt2") == snapshot
    folder = write_model(CHECKPOINTS / "gpt2")
    assert resolve("gpt2") == folder
    folder = write_model(Path("gpt2"))
    assert resolve("gpt2") == folder
    assert capsys.readouterr().err == ""
    assert fake.requests == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3-06b", "qwen3-0.6b"),
        ("lama-3.2-1b", "llama-3.2-1b"),
        ("SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("Qwen/Qwen3-06B", QWEN),
        ("HuggingFaceTB/SmolLM-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_suggestions(fake: FakeHub, name: str, expected: str) -> None:
    with pytest.raises(InputError, match=r"is neither a local path nor a repository") as caught:
        resolve(name)
    assert str(caught.value).endswith(f"; did you mean {expected}?")


def test_no_suggestion_for_a_name_like_none() -> None:
    assert suggestion("xyz") == suggestion("owner/xyz") == ""


def test_a_known_name_is_not_suggested_for_itself() -> None:
    """As where a mirror lacks it, or a wrong token hides it."""
    assert suggestion(QWEN) == ""

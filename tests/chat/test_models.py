"""`/model`: another model in the same session."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from mygpt import LLM
from mygpt.chat import models
from mygpt.chat.dispatch import dispatch
from mygpt.chat.models import ModelSwitch
from mygpt.chat.transcript import read_transcript
from mygpt.options import LoadOptions
from tests.chat.test_session import CUT, Repl
from tests.models import CONTEXT, write_model

LOADING: dict[str, Any] = {"precision": "32-true", "accelerator": "cpu"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    first = write_model(root / "first", max_position_embeddings=1024)
    second = write_model(root / "second", "gpt_neox", max_position_embeddings=256)
    (second / "chat_template.jinja").write_text("{{ messages | map(attribute='content') | join('/') }}/")
    return str(first), str(second)


@pytest.fixture
def repl(folders: tuple[str, str]) -> Repl:
    llm = LLM.load(folders[0], **LOADING)
    repl = Repl(llm, top_k=7, sys_prompt="S")
    repl.models = ModelSwitch(folders[0], LoadOptions(**LOADING), llm.loaded)
    return repl


def prompt_of(repl: Repl) -> str:
    """The rendered history of the last answer."""
    conversation = repl.conversation
    assert conversation.last is not None
    ids = conversation.prompt_encoder.encode(conversation.messages[:-1])
    assert len(ids) == conversation.last.prompt_tokens
    return conversation.engine.tokenizer.decode(ids)


def test_the_current_model(repl: Repl, folders: tuple[str, str]) -> None:
    for text in ("/model", f"/model {folders[0]}"):
        assert repl.does(text) == f"model: {folders[0]} | cpu 32-true"


@pytest.mark.parametrize("fits", [True, False, None])
def test_the_conversation_goes_on(
    repl: Repl, folders: tuple[str, str], fits: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the settings, by the new template; what does not fit beside the old model finds that gone."""
    first, second = folders
    repl.does("/set temperature 0")
    repl.does("a")
    old = weakref.ref(repl.conversation.engine.loaded.model)
    monkeypatch.setattr(models, "make_plan", lambda *_: Plan(fits))
    load, alive = models.load, []

    def watch(*arguments: Any) -> Any:
        alive.append(old() is not None)
        return load(*arguments)

    monkeypatch.setattr(models, "load", watch)
    assert repl.does(f"/model {second}") == f"model: {second} | cpu 32-true"
    gc.collect()
    assert (alive, old()) == ([fits is True], None)
    said = repl.conversation.messages[2]["content"]
    assert repl.does("b") == CUT
    assert prompt_of(repl) == f"S/a/{said}/b/"
    settings = repl.conversation.settings
    assert (settings["top_k"], settings["temperature"], settings["max_new_tokens"]) == (7, 0, 5)
    assert repl.does(f"/model {first}") == f"model: {first} | cpu 32-true"
    assert repl.does("c") == CUT
    assert prompt_of(repl).startswith("<|system|>S<|user|>a<|assistant|>")


class Plan:
    def __init__(self, fits: bool | None) -> None:
        self.fits = fits


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./nowhere", "error: no such folder or file: './nowhere'"),
        ("nobody/nothing", "error: "),
        ("a name", "error: "),
    ],
)
def test_a_name_that_is_none(
    repl: Repl, name: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    old = repl.conversation.engine
    assert repl.does(f"/model {name}").startswith(says)
    assert len(repl.notes) == 1
    assert repl.conversation.engine is old
    dispatch(repl, "a")
    assert repl.said == ["a"]


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("broken", ["weights", "tokenizer"])
def test_a_model_that_cannot_be_loaded(
    repl: Repl, fits: bool, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says why, and the old model goes on."""
    folder = write_model(tmp_path / "model")
    file = folder / ("model.safetensors" if broken == "weights" else "tokenizer.json")
    file.write_bytes(file.read_bytes()[:100])
    monkeypatch.setattr(models, "make_plan", lambda *_: Plan(fits))
    repl.does("a")
    assert repl.does(f"/model {folder}").startswith("error: ")
    assert len(repl.notes) == 1
    assert "first" in repl.does("/model")
    assert repl.does("b") == CUT
    assert repl.said == ["a", "b"]


@pytest.mark.parametrize("fits", [True, False])
def test_ctrl_c_while_it_loads(
    repl: Repl, folders: tuple[str, str], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "make_plan", lambda *_: Plan(fits))
    load = models.load

    def interrupted(name: str, options: LoadOptions) -> Any:
        if name == folders[1]:
            raise KeyboardInterrupt
        return load(name, options)

    monkeypatch.setattr(models, "load", interrupted)
    assert repl.does(f"/model {folders[1]}") == f"note: stopped; the model is still {folders[0]}"
    assert repl.does("a") == CUT


def test_where_the_old_one_cannot_come_back(
    repl: Repl, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The conversation is there, can be saved, and goes on with a model that loads."""
    repl.does("a")

    def full(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(models, "make_plan", lambda *_: Plan(False))
        patch.setattr(models, "load", full)
        assert repl.does(f"/model {folders[1]}").startswith("error: out of memory")
    for text in ("b", "/model"):
        assert repl.does(text) == "error: there is no model now; load one with /model NAME"
    assert repl.does(f"/save {tmp_path}/x.json") == f"3 messages saved to {tmp_path}/x.json"
    assert len(read_transcript(tmp_path / "x.json")[0]) == 3
    assert "second" in repl.does(f"/model {folders[1]}")
    assert repl.does("b") == CUT


def test_options_of_the_repository_are_the_first_ones_own(folders: tuple[str, str]) -> None:
    llm = LLM.load(folders[0], **LOADING)
    given = LoadOptions(**LOADING, prompt_style="plain", quantize="bnb.nf4")
    switch = ModelSwitch("a", given, llm.loaded)
    first, other = switch._options_of("a"), switch._options_of("b")
    assert (first.prompt_style, first.quantize) == ("plain", "bnb.nf4")
    assert (other.prompt_style, other.quantize, other.strategy) == (None, "bnb.nf4", "auto")


def test_a_template_is_missing(repl: Repl, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", chat=False)
    assert "no chat template" in repl.does(f"/model {folder}")
    repl.does('/system ""')
    repl.does("a")
    assert prompt_of(repl) == "User: a\nAssistant:"
    assert repl.conversation.engine.config.context_length == CONTEXT

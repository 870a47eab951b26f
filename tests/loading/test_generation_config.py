"""Sampling defaults: what the model's authors recommend, and what the user gives over it."""

from pathlib import Path

import pytest

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.loading.generation_config import CHAT_TOKENS, RAW_TOKENS, read_generation_config
from mygpt.options import Sampling, SamplingOptions
from tests.models import edit_json, write_model

GIVEN = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.05}


def test_all_keys_are_read() -> None:
    read = read_generation_config({**GIVEN, "max_new_tokens": 77, "eos_token_id": 2}, "here")
    assert read.sampling == Sampling(**GIVEN)
    assert read.max_new_tokens == read.answer_tokens(chat=True) == read.answer_tokens(chat=False) == 77


def test_without_recommendations() -> None:
    read = read_generation_config({"temperature": None, "transformers_version": "5.0"}, "here")
    assert read.sampling == Sampling(0.8, 50, 1.0, 0.0, 1.0)
    assert (read.answer_tokens(chat=True), read.answer_tokens(chat=False)) == (CHAT_TOKENS, RAW_TOKENS)


def test_do_sample_false_is_greedy() -> None:
    assert read_generation_config({"do_sample": False, "temperature": 0.6}, "here").sampling.greedy
    assert not read_generation_config({"do_sample": True}, "here").sampling.greedy


def test_vllms_way_to_write_all_tokens() -> None:
    assert read_generation_config({"top_k": -1}, "here").sampling.top_k == 0


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_k": 2.5},
        {"top_k": 2**70},
        {"temperature": 10**400},
        {"top_p": 7},
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
    ],
)
def test_nonsense_is_named(values: dict[str, object]) -> None:
    with pytest.raises(
        InputError, match=rf"here: its generation_config.json is wrong, {next(iter(values))} must"
    ):
        read_generation_config(values, "here")


def test_what_the_user_gives_wins() -> None:
    asked = SamplingOptions(temperature=0.0, top_k=0)
    assert asked.over(Sampling(**GIVEN)) == Sampling(**{**GIVEN, "temperature": 0.0, "top_k": 0})
    with pytest.raises(InputError, match="--top_p must be"):
        SamplingOptions(top_p=2.0)


def test_a_folders_recommendations_are_used(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    edit_json(folder / "generation_config.json", temperature=0.0, max_new_tokens=7)
    llm = LLM.load(str(folder), precision="32-true")
    greedy = llm.generate_ids([1, 2, 3], temperature=0.0, max_new_tokens=7)
    assert llm.generate_ids([1, 2, 3], seed=1) == llm.generate_ids([1, 2, 3], seed=2) == greedy
    assert len("".join(llm.stream("Hi", stop=[]))) <= 7
    assert llm.generate_ids([1, 2, 3], temperature=5.0, seed=1) != greedy
    assert llm.chat().settings["temperature"] == 0.0
    assert llm.chat(temperature=0.3).settings["temperature"] == 0.3

"""Templates like those that the families publish render as in transformers, or are refused as there."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from mygpt.errors import InputError
from mygpt.text.chat_template import ChatTemplate, find_chat_template
from mygpt.text.tokenizer import Tokenizer
from tests.families.chat_templates import LOOP, TEMPLATES
from tests.models import edit_json, write_tokenizer

Message = dict[str, Any]

USER = {"role": "user", "content": " Who <are> you? "}
ANSWER = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nNobody. "}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "é"}}}
CONVERSATIONS: dict[str, list[Message]] = {
    "one turn": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "three turns": [USER, ANSWER, {"role": "user", "content": "Why?"}],
    "system and three turns": [{"role": "system", "content": "S"}, USER, ANSWER, USER],
    "two users": [USER, USER],
    "reasoning": [USER, {"role": "assistant", "content": "No.", "reasoning_content": "Hm."}, USER, ANSWER],
    "older reasoning": [USER, {"role": "assistant", "content": "No.", "thinking": "Hm."}],
    "tool call": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "5"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, chat=False)
    edit_json(folder / "tokenizer_config.json", bos_token="<s>")
    return folder


def ours(folder: Path, messages: list[Message], **variables: Any) -> str:
    tokenizer = Tokenizer.from_folder(folder)
    found = find_chat_template(folder, tokenizer)
    assert found is not None
    return ChatTemplate(*found).render(messages, special_tokens=tokenizer.special_tokens, **variables)


def theirs(folder: Path, messages: list[Message], **variables: Any) -> str:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer.apply_chat_template(messages, tokenize=False, **variables)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_familys_template_renders_as_in_transformers(name: str, folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=TEMPLATES[name])
    rendered = 0
    for case, messages in CONVERSATIONS.items():
        for variables in (
            {"add_generation_prompt": True},
            {"add_generation_prompt": False, "enable_thinking": False},
            {"add_generation_prompt": True, "enable_thinking": False, "controls": {"length": "short"}},
        ):
            try:
                expected = theirs(folder, messages, **variables)
            except TemplateError as error:
                with pytest.raises(InputError) as refused:
                    ours(folder, messages, **variables)
                assert " ".join(str(error).split()) in str(refused.value), case
            except Exception:  # a short template does not know every conversation
                with pytest.raises(InputError):
                    ours(folder, messages, **variables)
            else:
                rendered += 1
                assert ours(folder, messages, **variables) == expected, case
    assert rendered >= len(CONVERSATIONS)  # of three times as many


@pytest.mark.parametrize(
    ("name", "case", "message"),
    [
        ("llama2", "two users", "Roles must alternate user/assistant"),
        ("mistral", "two users", "Not alternating: user, assistant"),
        ("gemma", "system", "System role not supported"),
    ],
)
def test_what_a_template_refuses_is_an_input_error_with_its_words(
    name: str, case: str, message: str, folder: Path
) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=TEMPLATES[name])
    with pytest.raises(TemplateError):
        theirs(folder, CONVERSATIONS[case])
    with pytest.raises(InputError, match=f"refuses these messages: {message}$"):
        ours(folder, CONVERSATIONS[case])


LISTED = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": f"L{LOOP}"}]


@pytest.mark.parametrize(
    ("config", "jinja"),
    [(f"C{LOOP}", None), (LISTED, None), (None, f"F{LOOP}\n"), (LISTED, f"F{LOOP}\n")],
    ids=["text", "list", "file", "file before list"],
)
def test_where_a_folder_keeps_its_template(config: Any, jinja: str | None, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, chat=False)
    edit_json(tmp_path / "tokenizer_config.json", chat_template=config)
    if jinja:
        (tmp_path / "chat_template.jinja").write_text(jinja)
    for messages in CONVERSATIONS.values():
        assert ours(tmp_path, messages) == theirs(tmp_path, messages, add_generation_prompt=True)


def test_the_template_of_an_old_processor(tmp_path: Path) -> None:
    """chat_template.json: transformers gives it to the processor alone, but it is the model's."""
    write_tokenizer(tmp_path, chat=False)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": f"P{LOOP}"}))
    assert ours(tmp_path, [USER]) == f"P<|user|>{USER['content']}"

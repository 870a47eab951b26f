"""Conversations with tiny models: what is reused of the cache, what is kept, what is taken back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mygpt import LLM
from mygpt.chat.conversation import Conversation
from mygpt.chat.transcript import read_transcript
from mygpt.errors import ContextOverflowError, InputError
from mygpt.model.kv_cache import GROWTH
from tests.families.variants import ORIGINAL, WINDOW, variant
from tests.models import CONTEXT, PADDED_VOCAB, write_model, write_tokenizer

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 12}
LONG = {"max_position_embeddings": 4096}
# Rope types and windows for which a cache cannot simply be cut back, or goes out of date.
MODELS = {
    "plain": "llama-gqa",
    "window": "mistral-window",
    "some windows": "gemma2",
    "dynamic": "llama-dynamic",
    "longrope": "phi3-longrope",
}


def load(folder: Path) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    """A context of 128 tokens, each of a byte."""
    return load(write_model(tmp_path_factory.mktemp("model") / "llama"))


@pytest.fixture(scope="module")
def long_llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return load(write_model(tmp_path_factory.mktemp("model") / "llama", **LONG))


def build(folder: Path, name: str, template: str | None = None) -> Path:
    """A variant with a tokenizer, and with a chat template of its own."""
    base = variant(name)
    replace(base, changes={**base.changes, "vocab_size": PADDED_VOCAB}).build(folder)
    write_tokenizer(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def without_reuse(conversation: Conversation) -> str:
    """What the last answer is when nothing of the history is in a cache."""
    prompt = conversation.messages[:-1]
    return LLM(conversation.engine.loaded).generate(prompt, **GREEDY)


def tell(conversation: Conversation, text: str) -> str:
    return "".join(conversation.say(text))


# Reuse


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_without_a_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turn by turn, across the window and the length where ropes stretch, and after going back before it."""
    monkeypatch.setattr(
        "mygpt.loading.load.LoadedModel.vocab_size", 94
    )  # printable ASCII: texts that encode as they came
    conversation = load(
        build(tmp_path, MODELS[name], "{{ messages | map(attribute='content') | join('|') }}|")
    )
    conversation = conversation.chat(**GREEDY)
    reused, lengths = [], []
    for text in ("abc", "d", "efgh", "i"):
        tell(conversation, text)
        assert conversation.messages[-1]["content"] == without_reuse(conversation)
        assert conversation.last is not None
        reused.append(conversation.last.reused_tokens)
        lengths.append(conversation.last.prompt_tokens + conversation.last.new_tokens)
    assert lengths[0] < ORIGINAL < lengths[2]
    assert reused[1] == lengths[0] - 1  # the last token of an answer was never an input
    assert (0 in reused[1:]) == (name in ("dynamic", "longrope"))
    for _ in range(3):  # back to the first turn, which is shorter than what was held
        conversation.undo()
    tell(conversation, "z")
    assert conversation.messages[-1]["content"] == without_reuse(conversation)
    "".join(conversation.regenerate())
    assert conversation.messages[-1]["content"] == without_reuse(conversation)


def test_only_what_is_new_is_computed(long_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mygpt.loading.load.LoadedModel.vocab_size", 94)
    conversation = long_llm.chat(**GREEDY)
    tell(conversation, "x" * 500)
    assert conversation.last is not None
    assert conversation.last.reused_tokens == 0
    tell(conversation, "y")
    computed = conversation.last.prompt_tokens - conversation.last.reused_tokens
    assert computed == 1 + len("<|user|>y<|assistant|>")  # the answer's last token was never an input
    "".join(conversation.regenerate())
    assert conversation.last.prompt_tokens - conversation.last.reused_tokens == 1
    conversation.system = "Be brief"  # the template begins with it: nothing in common but "<|"
    tell(conversation, "z")
    assert conversation.last.reused_tokens == len("<|")


def test_the_cache_grows_with_the_conversation(long_llm: LLM) -> None:
    conversation = long_llm.chat(**GREEDY)
    for text in ("x" * 200, "y" * (GROWTH - 300), "z" * 600, "w"):
        tell(conversation, text)
        assert conversation.messages[-1]["content"] == without_reuse(conversation)
    assert len(long_llm.encode(conversation.messages)) > GROWTH + 400


# What is kept


def test_undo_takes_turn_after_turn_back(llm: LLM) -> None:
    conversation = llm.chat(sys_prompt="S", **GREEDY)
    tell(conversation, "a")
    after_one = list(conversation.messages)
    tell(conversation, "b")
    assert conversation.undo() == "b"
    assert conversation.messages == after_one
    assert conversation.undo() == "a"
    assert conversation.undo() is None
    assert conversation.messages == [{"role": "system", "content": "S"}]


def test_another_answer_is_another_one(llm: LLM) -> None:
    """And repeatable: answer i has the seed + i."""
    answers = []
    for _ in range(2):
        conversation = llm.chat(seed=1, max_new_tokens=12)
        first = tell(conversation, "a")
        answers.append([first, "".join(conversation.regenerate())])
        assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
        assert conversation.messages[-1]["content"] == answers[-1][1]
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1]
    with pytest.raises(InputError, match="no answer yet"):
        next(llm.chat().regenerate())


def test_the_system_message_changes_and_the_history_stays(llm: LLM) -> None:
    conversation = llm.chat(**GREEDY)
    tell(conversation, "a")
    said = list(conversation.messages)
    conversation.system = "one"
    conversation.system = "two"
    assert conversation.messages == [{"role": "system", "content": "two"}, *said]
    conversation.clear()
    assert conversation.messages == [{"role": "system", "content": "two"}]
    conversation.system = None
    assert conversation.messages == []
    assert conversation.system is None


def test_settings_change_from_turn_to_turn(llm: LLM) -> None:
    conversation = llm.chat(max_new_tokens=3, seed=1)
    first = tell(conversation, "a")
    conversation.change(seed=1, temperature=0.8)
    conversation.undo()
    assert tell(conversation, "a") == first
    conversation.change(max_new_tokens=5, stop=["#"], temperature=0)
    tell(conversation, "b")
    assert conversation.last is not None
    assert conversation.last.new_tokens == 5
    assert conversation.settings["stop"] == ["#"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"foo": 1}, "no setting 'foo'; there are think, chat_template_kwargs"),
        ({"temperature": "hot"}, "temperature must be a number, it is 'hot'"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": -1}, "temperature must be 0 or above"),
        ({"top_k": 1.5}, "top_k must be a whole number"),
        ({"max_new_tokens": "many"}, "max_new_tokens must be a whole number"),
        ({"stop": 5}, "stop must be a list of texts"),
        ({"stop": [1]}, "stop must be a list of texts"),
        ({"on_overflow": "panic"}, "on_overflow must be one of drop, error"),
        ({"on_overflow": None}, "on_overflow must be a text"),
        ({"top_p": 0.5, "seed": -1}, "seed must be between"),
    ],
    ids=str,
)
def test_wrong_settings_change_nothing(llm: LLM, settings: dict[str, Any], says: str) -> None:
    conversation = llm.chat(top_p=0.9)
    before = conversation.settings
    with pytest.raises(InputError, match=says):
        conversation.change(**settings)
    assert conversation.settings == before


@pytest.mark.parametrize("pieces", [1, 3])
def test_an_answer_that_is_closed_is_kept_as_far_as_it_was_read(llm: LLM, pieces: int) -> None:
    conversation = llm.chat(**GREEDY)
    answer = conversation.say("a")
    read = "".join(next(answer) for _ in range(pieces))
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": read}
    assert conversation.last is not None
    assert conversation.last.finish_reason is None
    tell(conversation, "b")
    assert conversation.messages[-1]["content"] == without_reuse(conversation)


def test_an_answer_that_was_never_read_changes_nothing(llm: LLM) -> None:
    conversation = llm.chat(**GREEDY)
    conversation.say("a").close()
    assert conversation.messages == []
    assert conversation.last is None


@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window"])
def test_an_interrupted_prefill_takes_the_message_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one in several chunks, of which some were computed."""
    conversation = load(build(tmp_path, name)).chat(**GREEDY)
    tell(conversation, "a")
    before, last = list(conversation.messages), conversation.last
    monkeypatch.setattr("mygpt.engine.prefill.PREFILL_CHUNK", WINDOW - 3)
    model = conversation.engine.loaded.model
    calls = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with model.layers[1].register_forward_pre_hook(interrupt), pytest.raises(KeyboardInterrupt):
        tell(conversation, "b" * 30)
    assert conversation.messages == before
    assert conversation.last is last
    tell(conversation, "c")
    assert conversation.messages[-1]["content"] == without_reuse(conversation)


@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window"])
@pytest.mark.parametrize("step", range(3, 9))
def test_an_interrupted_step_spoils_no_later_answer(name: str, step: int, tmp_path: Path) -> None:
    """Some of its layers have written their keys and values; at any place in a window."""
    conversation = load(build(tmp_path, name, "{{ messages[-1].content }}")).chat(**GREEDY)
    calls = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt

    layer = conversation.engine.loaded.model.layers[1]
    with layer.register_forward_pre_hook(interrupt), pytest.raises(KeyboardInterrupt):
        tell(conversation, "abcd")
    assert conversation.messages[-1]["role"] == "assistant"
    tell(conversation, "abce")  # begins as what is held
    expected = LLM(conversation.engine.loaded).generate("abce", **GREEDY)
    assert conversation.messages[-1]["content"] == expected


def test_what_an_interrupted_answer_overwrote_is_not_taken_for_held(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C came after it, and before it was known what the cache holds."""
    conversation = llm.chat(**GREEDY)
    tell(conversation, "a" * 20)
    conversation.undo()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conversation, "_keep", interrupt)
        tell(conversation, "b" * 20)
    tell(conversation, "a" * 20)
    assert conversation.messages[-1]["content"] == without_reuse(conversation)


def test_a_template_that_refuses_changes_nothing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}"
    )
    conversation = load(folder).chat(**GREEDY)
    tell(conversation, "a")
    before = list(conversation.messages)
    with pytest.raises(InputError, match="one turn only"):
        tell(conversation, "b")
    assert conversation.messages == before


def test_reasoning_may_start_in_the_prompt(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    conversation = load(folder).chat(**GREEDY)
    tell(conversation, "<think>")
    assert not conversation.starts_in_reasoning
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}:<think>\n")
    conversation = load(folder).chat(**GREEDY)
    tell(conversation, "a")
    assert conversation.starts_in_reasoning


def test_a_model_without_a_template_gets_the_plain_style(tmp_path: Path) -> None:
    conversation = load(write_model(tmp_path / "model", chat=False)).chat(**GREEDY)
    tell(conversation, "a")
    assert conversation.last is not None
    assert conversation.last.prompt_tokens == len("User: a\nAssistant:")


# The context's end


def test_whole_turns_are_dropped_and_never_the_system_message(llm: LLM) -> None:
    conversation = llm.chat(sys_prompt="SYS", temperature=0.0, max_new_tokens=8)
    prompts = []
    encode = conversation.prompt_encoder.encode
    conversation.prompt_encoder.encode = lambda messages, **_: (
        prompts.append(list(messages)) or encode(messages)
    )  # type: ignore[assignment, func-returns-value]
    try:
        for number in range(8):
            tell(conversation, f"turn {number}")
            shown = prompts[-1]
            assert shown[0] == {"role": "system", "content": "SYS"}
            assert [m["role"] for m in shown[1:]] == ["user", "assistant"] * (len(shown) // 2 - 1) + ["user"]
            assert shown[1:] == conversation.messages[1 + conversation.n_dropped : -1]
            assert conversation.last is not None
            assert conversation.last.prompt_tokens + conversation.last.new_tokens <= CONTEXT
    finally:
        del conversation.prompt_encoder.encode
    assert len(conversation.messages) == 17  # all of the history stays
    assert conversation.n_dropped > 0
    conversation.undo()
    assert conversation.n_dropped == 0


def test_a_message_that_never_fits_changes_nothing(llm: LLM) -> None:
    conversation = llm.chat(**GREEDY)
    tell(conversation, "a")
    before = list(conversation.messages)
    with pytest.raises(InputError, match="the message does not fit"):
        tell(conversation, "x" * CONTEXT)
    assert (conversation.messages, conversation.n_dropped) == (before, 0)
    tell(conversation, "b")


def test_on_overflow_error_stops_and_changes_nothing(llm: LLM) -> None:
    conversation = llm.chat(temperature=0.0, max_new_tokens=20, on_overflow="error")
    before: list[dict[str, Any]] = []
    with pytest.raises(ContextOverflowError, match="--on_overflow drop"):
        for _ in range(10):
            before = list(conversation.messages)
            tell(conversation, "y" * 20)
    assert conversation.messages == before != []
    conversation.change(on_overflow="drop")
    tell(conversation, "y" * 20)
    assert conversation.n_dropped > 0


# Files


def test_what_is_saved_is_loaded(llm: LLM, tmp_path: Path) -> None:
    file = tmp_path / "ada.json"
    conversation = llm.chat(sys_prompt="Grüße\u2028", temperature=0.0, max_new_tokens=12, stop=["#"])
    tell(conversation, "a")
    conversation.save(file)
    loaded = llm.chat(seed=3)
    loaded.load(file)
    assert (loaded.messages, loaded.settings) == (conversation.messages, conversation.settings)
    assert tell(loaded, "b") == tell(conversation, "b")
    assert list(tmp_path.iterdir()) == [file]
    row = json.loads(file.read_text(encoding="utf-8"))
    assert llm.encode(row["messages"]) == llm.encode(read_transcript(file)[0])


def test_a_save_that_fails_leaves_the_old_file(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kept.json"
    conversation = llm.chat(**GREEDY)
    conversation.save(file)
    old = file.read_bytes()
    conversation.messages.append({"role": "user", "content": "new"})

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.fsync", interrupt)
        conversation.save(file)
    assert file.read_bytes() == old
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("path", ["nowhere/x.json", "."])
def test_files_that_cannot_be_written(llm: LLM, tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        llm.chat().save(tmp_path / path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"{", "no saved conversation"),
        (b"\xff", "no saved conversation"),
        (b"[]", "no saved conversation"),
        (b"[" * 100_000, "no saved conversation"),
        (b'{"messages": "a"}', "no saved conversation"),
        (b'{"messages": [{"role": "king", "content": "a"}]}', "no saved conversation"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "no saved conversation"),
        (b'{"messages": [], "settings": {"temperature": "hot"}}', r"x\.json: temperature must be a number"),
        (b'{"messages": [], "settings": {"foo": 1}}', r"x\.json: there is no setting 'foo'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_files_that_are_no_conversation(llm: LLM, tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_bytes(content)
    conversation = llm.chat(**GREEDY)
    tell(conversation, "a")
    before = list(conversation.messages), conversation.settings
    with pytest.raises(InputError, match=says):
        conversation.load(file)
    assert (conversation.messages, conversation.settings) == before

"""`--context_length`: a smaller context changes no logits, whatever the rope type, and bounds prompts and caches."""

from pathlib import Path

import pytest
import torch

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.model.kv_cache import GROWTH
from tests.families.variants import ORIGINAL, VARIANTS, Variant, once
from tests.models import write_model

OPTIONS = {"precision": "32-true", "accelerator": "cpu"}
EVERY_ROPE = once(VARIANTS, lambda v: v.config.model_type in ("llama", "phi3", "gpt2"))
LIMIT = ORIGINAL + 8  # rope types that stretch do so below it


@pytest.mark.parametrize("tiny", EVERY_ROPE)
def test_logits_stay_what_they_are(tiny: Variant, tmp_path: Path) -> None:
    tiny.build(tmp_path)
    whole = LLM.load(str(tmp_path), **OPTIONS)
    limited = LLM.load(str(tmp_path), context_length=LIMIT, **OPTIONS)
    assert limited.config.context_length == LIMIT < whole.config.context_length
    for length in (ORIGINAL - 1, ORIGINAL + 1, LIMIT):
        ids = torch.randint(0, whole.config.vocab_size, (2, length))
        assert torch.equal(limited.logits(ids), whole.logits(ids))
    ids = list(range(1, ORIGINAL - 2))
    options = {"max_new_tokens": LIMIT - len(ids), "temperature": 0.0}
    assert limited.generate_ids(ids, **options) == whole.generate_ids(ids, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "gpt", max_position_embeddings=4096)


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    llm = LLM.load(str(folder), context_length=20, **OPTIONS)
    with pytest.raises(
        InputError, match="the prompt of 20 tokens does not fit the model's context of 20 tokens"
    ):
        llm.generate_ids([1] * 20)
    with pytest.raises(InputError, match="21 tokens do not fit the context of 20"):
        llm.logits([[1] * 21])
    assert len(llm.generate_ids([1] * 15, max_new_tokens=50, temperature=0.0)) <= 5


def test_more_than_the_model_has_is_refused(folder: Path) -> None:
    with pytest.raises(
        InputError, match="--context_length 4097 is more than the model's context of 4096 tokens"
    ):
        LLM.load(str(folder), context_length=4097, **OPTIONS)
    with pytest.raises(InputError, match="--context_length must be 2 or above, it is 1"):
        LLM.load(str(folder), context_length=1, **OPTIONS)
    assert LLM.load(str(folder), context_length=4096, **OPTIONS).config.context_length == 4096


def test_a_chat_drops_turns_and_its_cache_stays_below(folder: Path) -> None:
    """A cache grows by `GROWTH` slots at a time, and the last time by what the context leaves."""
    limit = GROWTH + 200
    chat = LLM.load(str(folder), context_length=limit, **OPTIONS).chat(max_new_tokens=80, temperature=0.0)
    sizes = set()
    for _ in range(3):
        "".join(chat.say("x" * 400))
        assert chat._cache is not None
        sizes.add(chat._cache.slots)
    assert chat.n_dropped > 0
    assert max(sizes) == limit
    assert chat.last is not None and 0 <= chat.last.context_left < limit


def test_a_draft_model_keeps_its_own_context(folder: Path) -> None:
    llm = LLM.load(str(folder), context_length=64, draft=str(folder), **OPTIONS)
    assert llm.loaded.draft is not None
    assert (llm.config.context_length, llm.loaded.draft.model.config.context_length) == (64, 4096)
    alone = LLM.load(str(folder), context_length=64, **OPTIONS)
    options = {"max_new_tokens": 99, "temperature": 0.0}
    assert llm.generate_ids([1, 2, 3], **options) == alone.generate_ids([1, 2, 3], **options)

"""The decode loop's own cases; what it shares with the command line is tested there."""

import pytest
import torch

from mygpt import LLM
from mygpt.engine.prefill import prefill
from tests.models import write_model


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return LLM.load(
        str(write_model(tmp_path_factory.mktemp("model"))), precision="32-true", accelerator="cpu"
    )


@torch.inference_mode()
def test_rows_that_hold_different_shares_of_their_prompts(llm: LLM) -> None:
    """A row with much in the cache, beside one with little: the padding of the first must not pass its slots."""
    prompts = [list(range(1, 12)), list(range(20, 32))]
    model = llm.loaded.model
    cache = model.allocate_cache(2, slots=13)
    prefill(model, cache, [prompts[0][:10], prompts[1][:10]])
    cache.truncate([10, 0])
    logits = prefill(model, cache, prompts)
    assert cache.lengths == [11, 12]
    whole = torch.cat([llm.logits([prompt])[:, -1] for prompt in prompts])
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_cache_that_was_cut_back_goes_on_from_there(llm: LLM) -> None:
    """What stood in the slots before is not seen."""
    model = llm.loaded.model
    cache = model.allocate_cache(1, slots=40)
    prefill(model, cache, [list(range(1, 31))])
    cache.truncate([7])
    prompt = [1, 2, 3, 4, 5, 6, 7, 90, 91]
    torch.testing.assert_close(
        prefill(model, cache, [prompt]), llm.logits([prompt])[:, -1], rtol=1e-4, atol=1e-4
    )

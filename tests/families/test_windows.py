"""Sliding windows: prompts around the window's length, in chunks, in ragged batches, and step by step."""

from pathlib import Path

import pytest
import torch

from mygpt import LLM
from mygpt.engine.prefill import prefill
from mygpt.options import Sampling
from tests.families.variants import WINDOW, variant

LENGTHS = (1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW)


@pytest.fixture(
    scope="module",
    params=[
        "mistral-window",
        "mistral-window-of-one",
        "qwen3-upper-window",
        "gemma2",
        "exaone4",
        "cohere2",
        "ministral3-window",
        "gpt-oss",
    ],
)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder: Path = tmp_path_factory.mktemp(request.param)
    variant(request.param).build(folder)
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


def random_prompts(llm: LLM) -> list[list[int]]:
    torch.manual_seed(1)
    return [torch.randint(0, llm.config.vocab_size, (length,)).tolist() for length in LENGTHS]


@pytest.mark.parametrize("chunk", [1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 1000])
@torch.inference_mode()
def test_prefill_in_chunks_alone_and_together(llm: LLM, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mygpt.engine.prefill.PREFILL_CHUNK", chunk)
    prompts = random_prompts(llm)
    whole = torch.cat([llm.logits([prompt])[:, -1] for prompt in prompts])

    def chunked(rows: list[list[int]]) -> torch.Tensor:
        return prefill(llm.loaded.model, llm.loaded.model.allocate_cache(len(rows), 3 * WINDOW + 5), rows)

    torch.testing.assert_close(torch.cat([chunked([p]) for p in prompts]), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chunked(prompts), whole, rtol=1e-4, atol=1e-4)


def test_a_ragged_batch_is_its_rows(llm: LLM) -> None:
    """Rows cross the window at different steps."""
    prompts, sampling = random_prompts(llm), Sampling(temperature=0.0)
    batch = llm.engine.batch(prompts, sampling, 2 * WINDOW, seeds=range(len(prompts)))
    list(batch)
    for prompt, completion in zip(prompts, batch.completions, strict=True):
        assert completion.sequence.new_ids == llm.generate_ids(
            prompt, max_new_tokens=2 * WINDOW, temperature=0.0
        )


def test_samples_of_one_prompt_share_its_prefill(llm: LLM) -> None:
    prompt = random_prompts(llm)[-1]
    batch = llm.engine.batch([prompt] * 3, Sampling(), WINDOW, seeds=[1, 2, 3])
    list(batch)
    for seed, completion in zip([1, 2, 3], batch.completions, strict=True):
        assert completion.sequence.new_ids == llm.generate_ids(prompt, max_new_tokens=WINDOW, seed=seed)


@torch.inference_mode()
def test_a_window_layer_holds_its_window_only_and_a_cut_back_cache_starts_anew(llm: LLM) -> None:
    model, prompt = llm.loaded.model, random_prompts(llm)[-1]
    cache = model.allocate_cache(1, 100)
    window = max(llm.config.windows)
    assert {layer.size for layer, w in zip(cache.layers, llm.config.windows, strict=True) if w} == {window}
    prefill(model, cache, [prompt])
    cache.truncate([len(prompt) - 2])  # the window has lost what stood before
    again = prefill(model, cache, [prompt[:-1]])
    torch.testing.assert_close(again, llm.logits([prompt[:-1]])[:, -1], rtol=1e-4, atol=1e-4)

"""Every family in ragged batches and with its prompts in chunks: the same as each prompt alone, whole."""

from pathlib import Path

import pytest
import torch

from mygpt import LLM
from mygpt.engine.prefill import prefill
from mygpt.options import Sampling
from tests.families.variants import FIRST, ORIGINAL, WINDOW, Variant, variant

# And the rope types whose frequencies depend on a sequence's length.
CHECKED = [*FIRST.values(), variant("llama-dynamic"), variant("phi3-longrope"), variant("deepseek-v3-yarn")]
# Within the window, past it, and at both sides of where the rope types that stretch begin to.
LENGTHS = (1, WINDOW + 1, ORIGINAL - 2, ORIGINAL + 5)
NEW_TOKENS = 4


@pytest.fixture(scope="module", params=CHECKED, ids=str)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    chosen: Variant = request.param
    folder: Path = tmp_path_factory.mktemp(chosen.name)
    chosen.build(folder)
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


def random_prompts(llm: LLM) -> list[list[int]]:
    torch.manual_seed(1)
    return [torch.randint(0, llm.config.vocab_size, (length,)).tolist() for length in LENGTHS]


@pytest.mark.parametrize("chunk", [5, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 16))])
@torch.inference_mode()
def test_a_ragged_batch_in_chunks_is_each_prompt_whole(
    llm: LLM, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mygpt.engine.prefill.PREFILL_CHUNK", chunk)
    prompts = random_prompts(llm)
    whole = torch.cat([llm.logits([prompt])[:, -1] for prompt in prompts])
    together = prefill(llm.loaded.model, llm.loaded.model.allocate_cache(len(prompts), max(LENGTHS)), prompts)
    torch.testing.assert_close(together, whole, rtol=1e-4, atol=1e-4)


def test_a_ragged_batch_generates_what_each_prompt_does(llm: LLM) -> None:
    """One of its rows crosses the original length on the way."""
    prompts = random_prompts(llm)
    batch = llm.engine.batch(prompts, Sampling(temperature=0.0), NEW_TOKENS, seeds=range(len(prompts)))
    list(batch)
    alone = [llm.generate_ids(prompt, max_new_tokens=NEW_TOKENS, temperature=0.0) for prompt in prompts]
    assert [completion.sequence.new_ids for completion in batch.completions] == alone

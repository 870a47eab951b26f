"""Every variant of every family gives transformers' logits and ids, in float32, cached and uncached."""

import pytest
import torch
from transformers import PreTrainedModel

from mygpt import LLM
from mygpt.engine.prefill import prefill
from mygpt.engine.scheduler import decode_step
from mygpt.engine.sequence import Sequence
from tests.families.conftest import RecordError
from tests.families.variants import FIRST, ORIGINAL, ROPES, VARIANTS, Variant, once, reads_rope_as_llama

TOLERANCE = 1e-4  # of the logits' scale
# Around the length at which the rope types that stretch begin to.
LENGTHS = (1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1)


NOT_ONLY_A_ROPE = once(VARIANTS, lambda v: not reads_rope_as_llama(v))
# What greedy ids add to logits, the loop that makes them, is the same for all variants of a family.
GREEDY = once(
    VARIANTS, lambda v: v in FIRST.values() or (v.config.model_type == "llama" and v.switch in ROPES)
)
Pair = tuple[LLM, PreTrainedModel]


@pytest.fixture(scope="module")
def pair(tiny: Variant, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(tiny.name)
    reference = tiny.build(folder)
    return LLM.load(str(folder), precision="32-true", accelerator="cpu"), reference


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("tiny", NOT_ONLY_A_ROPE, scope="module")
@torch.no_grad()
def test_logits_equal_transformers(tiny: Variant, pair: Pair, record_error: RecordError) -> None:
    llm, reference = pair
    for length in LENGTHS:
        ids = torch.randint(0, llm.config.vocab_size, (2, length))
        error = relative_error(llm.logits(ids), reference(ids).logits)
        record_error(tiny, error)
        assert error < TOLERANCE, f"{length} tokens"


@pytest.mark.parametrize("tiny", NOT_ONLY_A_ROPE, scope="module")
@torch.inference_mode()
def test_cached_logits_equal_uncached(tiny: Variant, pair: Pair) -> None:
    """Prefill, then one token at a time across the length at which frequencies may change."""
    llm, _ = pair
    model, start = llm.loaded.model, ORIGINAL - 3
    ids = torch.randint(0, llm.config.vocab_size, (2, ORIGINAL + 3))
    whole = [llm.logits(ids[:, : n + 1])[:, -1] for n in range(ids.shape[1])]
    sequences = [Sequence(row[:start].tolist(), max_new_tokens=99, seed=0) for row in ids]
    cache = model.allocate_cache(2, ids.shape[1])
    logits = prefill(model, cache, [s.prompt_ids for s in sequences])
    assert relative_error(logits, whole[start - 1]) < 1e-5
    for place in range(start, ids.shape[1]):
        for sequence, token in zip(sequences, ids[:, place].tolist(), strict=True):
            sequence.new_ids.append(token)
        logits = decode_step(model, cache, sequences, [[], []])[:, 0]
        assert relative_error(logits, whole[place]) < 1e-5, f"token {place}"


@pytest.mark.parametrize("tiny", GREEDY, scope="module")
@torch.no_grad()
def test_greedy_ids_equal_transformers(tiny: Variant, pair: Pair) -> None:
    llm, reference = pair
    prompt = torch.randint(0, llm.config.vocab_size, (1, ORIGINAL // 2))
    # use_cache=False: transformers keeps keys whose frequencies have changed (dynamic), we do not.
    theirs = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False, use_cache=False
    )
    ours = llm.generate_ids(prompt[0].tolist(), max_new_tokens=40, temperature=0.0)
    assert ours == theirs[0, prompt.shape[1] :].tolist()

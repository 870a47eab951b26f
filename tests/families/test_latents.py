"""DeepSeek's latent attention, and how its configurations and files are read; numbers are compared in test_parity."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mygpt import LLM
from mygpt.engine.prefill import prefill
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.options import Sampling
from tests.families.variants import variant
from tests.families.variants.base import TINY

LENGTHS = (1, 4, 5, 17)


@pytest.fixture(scope="module", params=["deepseek-v2-lite", "deepseek-v3-yarn-mscale"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder: Path = tmp_path_factory.mktemp(request.param)
    variant(request.param).build(folder)
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


def random_prompts(llm: LLM) -> list[list[int]]:
    torch.manual_seed(1)
    return [torch.randint(0, llm.config.vocab_size, (length,)).tolist() for length in LENGTHS]


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_the_cache_holds_one_latent_and_one_rotated_key_per_token_and_layer(
    precision: str, tmp_path: Path
) -> None:
    variant("deepseek-v3").build(tmp_path)
    model = LLM.load(str(tmp_path), precision=precision, accelerator="cpu").loaded.model
    mla, element = model.config.mla, model.embed.weight.element_size()
    assert mla is not None
    cache = model.allocate_cache(batch_size=3, slots=7)
    assert cache.nbytes == 3 * 7 * model.config.n_layers * (mla.kv_lora_rank + mla.qk_rope_head_dim) * element


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@torch.inference_mode()
def test_prefill_in_chunks_alone_and_together(llm: LLM, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mygpt.engine.prefill.PREFILL_CHUNK", chunk)
    prompts, model = random_prompts(llm), llm.loaded.model
    whole = torch.cat([llm.logits([prompt])[:, -1] for prompt in prompts])

    def chunked(rows: list[list[int]]) -> torch.Tensor:
        return prefill(model, model.allocate_cache(len(rows), max(LENGTHS) + 3), rows)

    torch.testing.assert_close(torch.cat([chunked([p]) for p in prompts]), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chunked(prompts), whole, rtol=1e-4, atol=1e-4)


def test_a_ragged_batch_is_its_rows_also_where_two_share_a_prompt(llm: LLM) -> None:
    prompts = random_prompts(llm)
    for rows in (prompts, [prompts[-1]] * 2):
        batch = llm.engine.batch(rows, Sampling(temperature=0.0), 12, seeds=range(len(rows)))
        list(batch)
        for row, completion in zip(rows, batch.completions, strict=True):
            alone = llm.generate_ids(row, max_new_tokens=12, temperature=0.0)
            assert completion.sequence.new_ids == alone


def test_the_layer_that_predicts_one_token_more_is_skipped(tmp_path: Path) -> None:
    variant("deepseek-v3").build(tmp_path)
    load = {"precision": "32-true", "accelerator": "cpu"}
    before = LLM.load(str(tmp_path), **load).logits([[1, 2, 3]])
    weights = load_file(tmp_path / "model.safetensors")
    last = {name: tensor for name, tensor in weights.items() if name.startswith("model.layers.1.")}
    weights |= {name.replace("layers.1", "layers.2"): tensor.clone() for name, tensor in last.items()}
    for name in ("embed_tokens", "enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head"):
        weights[f"model.layers.2.{name}.weight"] = torch.zeros(2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(LLM.load(str(tmp_path), **load).logits([[1, 2, 3]]), before)


def test_what_chooses_experts_is_not_rounded(tmp_path: Path) -> None:
    reference = variant("deepseek-v3").build(tmp_path)
    model = LLM.load(str(tmp_path), precision="bf16-true", accelerator="cpu").loaded.model
    theirs = reference.model.layers[1].mlp.gate.e_score_correction_bias
    assert torch.equal(model.layers[1].mlp.router.e_score_correction_bias, theirs)


def config_file(name: str, **changes: Any) -> dict[str, Any]:
    tiny = variant(name)
    return {**tiny.config(**TINY[tiny.config], **tiny.changes).to_dict(), **changes}


def test_layers_of_experts_may_be_some_of_those_after_the_dense_ones() -> None:
    file = config_file("deepseek-v2", num_hidden_layers=8, first_k_dense_replace=3, moe_layer_freq=2)
    _, config = read_config(file)
    assert config.moe is not None
    assert config.moe.layers == (4, 6)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepseek-v2", {"norm_topk_prob": True}, "'norm_topk_prob' must be false, it is True"),
        ("deepseek-v2", {"mlp_bias": True}, "'mlp_bias' must be false"),
        ("deepseek-v2", {"topk_method": "noaux_tc"}, "'topk_method' must be 'greedy' or 'group_limited_greedy'"),
        ("deepseek-v2", {"scoring_func": "sigmoid"}, "'scoring_func' must be 'softmax', it is 'sigmoid'"),
        ("deepseek-v3", {"scoring_func": "softmax"}, "'scoring_func' must be 'sigmoid'"),
        ("deepseek-v3", {"topk_method": "greedy"}, "'topk_method' must be 'noaux_tc'"),
        ("deepseek-v3", {"num_key_value_heads": 2}, r"'num_key_value_heads' must be 'num_attention_heads' \(6\)"),
        ("deepseek-v3", {"n_group": 3}, r"'n_group' must be a divisor of 'n_routed_experts' \(8\), it is 3"),
        ("deepseek-v3", {"n_group": 8, "topk_group": 4}, r"'n_group' must be at most half"),
        ("deepseek-v3", {"topk_group": 1}, r"'topk_group' must be at most 'n_group' \(4\), and enough for"),
        ("deepseek-v3", {"first_k_dense_replace": -1}, "'first_k_dense_replace' must be a whole number"),
        ("deepseek-v3", {"num_experts_per_tok": 9}, "'num_experts_per_tok' must be at most 'n_routed_experts'"),
        (
            "deepseek-v3",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "'partial_rotary_factor' is not supported",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(config_file(name, **changes))

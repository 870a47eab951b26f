"""Mixtures of experts: which experts run, and the spellings of their weights."""

from pathlib import Path

import pytest
import torch

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.model.config import Config, MoEConfig, RopeConfig
from mygpt.model.moe import MoE
from tests.families.variants import variant

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
FILE = {
    **SIZES,
    "model_type": "qwen3_moe",
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
}


def make_moe(**changes) -> MoE:
    torch.manual_seed(0)
    moe = MoEConfig(n_experts=8, num_experts_per_tok=2, intermediate_size=24, layers=(0,), **changes)
    config = Config(64, 1, 32, 2, 2, 16, 64, 128, RopeConfig(16), moe=moe)
    module = MoE(config, moe)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.3)
    return module.requires_grad_(False)


@pytest.mark.parametrize("norm_topk_prob", [False, True])
def test_the_sum_over_all_experts_with_zero_weights_is_the_same(norm_topk_prob: bool) -> None:
    moe = make_moe(norm_topk_prob=norm_topk_prob, shared_intermediate_size=40)
    x = torch.randn(3, 5, 32)
    probabilities = moe.router(x).softmax(-1)
    weights = torch.where(probabilities >= probabilities.topk(2).values[..., -1:], probabilities, 0.0)
    if norm_topk_prob:
        weights /= weights.sum(-1, keepdim=True)
    expected = sum(weights[..., e, None] * expert(x) for e, expert in enumerate(moe.experts))
    expected = expected + moe.shared(x)
    torch.testing.assert_close(moe(x), expected)


def test_a_token_runs_through_its_own_experts_only() -> None:
    moe, ran = make_moe(norm_topk_prob=True), []
    for number, expert in enumerate(moe.experts):
        expert.register_forward_hook(lambda _, x, y, number=number: ran.append((number, len(x[0]))))
    x = torch.randn(1, 1, 32)
    _, topk_indices = moe.router.route(x[0])
    moe(x)
    assert sorted(ran) == [(number, 1) for number in sorted(topk_indices[0].tolist())]


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe-mlp-only", "qwen3-moe", "deepseek-v3"])
def test_one_tensor_for_all_experts_is_the_same_model(name: str, tmp_path: Path) -> None:
    reference = variant(name).build(tmp_path / "hub")
    reference.save_pretrained(tmp_path / "fused", save_original_format=False)
    ids = torch.randint(0, 128, (2, 7))
    llms = [
        LLM.load(str(tmp_path / kind), precision="32-true", accelerator="cpu") for kind in ("hub", "fused")
    ]
    assert torch.equal(llms[0].logits(ids), llms[1].logits(ids))


def test_a_tensor_of_another_number_of_experts_is_refused(tmp_path: Path) -> None:
    reference = variant("mixtral").build(tmp_path)
    family, config = read_config({**reference.config.to_dict(), "num_local_experts": 7})
    with pytest.raises(InputError, match="gate_up_proj of shape"):
        family.translate("model.layers.0.mlp.experts.gate_up_proj", torch.zeros(6, 80, 48), config)


@pytest.mark.parametrize("shape", [(5, 48, 80), (6,), ()])
def test_gpt_oss_experts_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    family, config = read_config(variant("gpt-oss").build(tmp_path).config.to_dict())
    with pytest.raises(InputError, match="gate_up_proj of shape"):
        family.translate("model.layers.0.mlp.experts.gate_up_proj", torch.zeros(shape), config)


@pytest.mark.parametrize("count", ["num_experts", "num_local_experts"])
def test_layers_of_experts(count: str) -> None:
    _, config = read_config({**FILE, count: 8, "decoder_sparse_step": 2, "mlp_only_layers": [3]})
    assert config.moe is not None
    assert (config.moe.layers, config.moe.n_experts) == ((1,), 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 9}, r"'num_experts_per_tok' must be at most 'num_experts' \(8\), it is 9"),
        ({"mlp_only_layers": [4]}, r"'mlp_only_layers' must be a list of layers, from 0 to 3, it is \[4\]"),
        ({"decoder_sparse_step": 0}, "'decoder_sparse_step' must be a whole number above 0, it is 0"),
        ({"num_experts": None}, "'num_experts' is missing"),
    ],
)
def test_what_no_model_can_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config({**FILE, "num_experts": 8, **changes})


def test_mixtral_needs_no_key_that_transformers_leaves_out() -> None:
    _, config = read_config(
        {
            **SIZES,
            "num_attention_heads": 8,
            "model_type": "mixtral",
            "intermediate_size": 64,
            "num_local_experts": 8,
        }
    )
    assert (config.n_kv_heads, config.rope.theta, config.norm_eps, {*config.windows}) == (8, 1e6, 1e-5, {0})

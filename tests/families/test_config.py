"""`config.json` in its old and its new spelling, and what is refused; no model is built."""

from dataclasses import replace
from typing import Any

import pytest

from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.model.config import Config
from tests.families.variants import ROPES, VARIANTS, Variant, reads_rope_as_llama, variant

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 128,
}  # fmt: skip

LLAMA3 = {"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 4, "original_max_position_embeddings": 64}


def config(model_type: str, **changes: Any) -> Config:
    return read_config({"model_type": model_type, **SIZES, **changes})[1]


@pytest.mark.parametrize("model_type", ["llama", "falcon", "gpt_neox"])
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_both_spellings_of_the_rope_are_the_same(model_type: str, rope: dict[str, Any]) -> None:
    """Until transformers 5: `rope_scaling` with `type` (before 4.45) or `rope_type`, the base beside it."""
    theta, pct = ("rotary_emb_base", {"rotary_pct": 1.0}) if model_type == "gpt_neox" else ("rope_theta", {})
    partial = {"partial_rotary_factor": 1.0} if pct else {}
    new = config(model_type, rope_parameters={**rope, "rope_theta": 777.0, **partial})
    older = {**rope, "type": rope["rope_type"]}
    del older["rope_type"]
    assert new.rope.theta == 777.0
    for old in (rope, older):
        assert config(model_type, rope_scaling=old, **{theta: 777.0}, **pct) == new


@pytest.mark.parametrize("tiny", [v for v in VARIANTS if reads_rope_as_llama(v)], ids=str)
def test_a_rope_type_is_read_as_by_the_family_that_is_compared_with_transformers(tiny: Variant) -> None:
    """So that those logits speak for it: Llama's, and for what Gemma 3 is in of those of its text part alone."""
    compared = "gemma3-text" if tiny.config.model_type == "gemma3" else "llama"
    read, others = (
        read_config(v.tiny_config().to_dict())[1] for v in (tiny, variant(f"{compared}-{tiny.switch}"))
    )
    assert replace(read.rope, dim=others.rope.dim) == others.rope
    assert read.window_rope == others.window_rope


def test_no_rope_keys_at_all_is_the_default() -> None:
    rope = config("llama", rope_scaling=None).rope
    assert (rope.type, rope.theta, rope.dim) == ("default", 10_000.0, 8)
    assert config("gpt_neox").rope.dim == 2  # a quarter of the head


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"type": "linear", "factor": 4.0}, 512),  # vicuna-16k: the trained positions stand in the file
        ({"type": "dynamic", "factor": 2.0}, 256),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),  # Qwen2.5's model card
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),  # DeepSeek
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}, 128),
    ],
    ids=["linear", "dynamic", "yarn before", "yarn after", "llama3"],
)  # fmt: skip
def test_the_context_that_a_rope_type_gives(rope: dict[str, Any], context: int) -> None:
    assert config("llama", rope_scaling=rope).context_length == context


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("llama", {"rope_scaling": {"type": "spiral", "factor": 2.0}}, "'spiral' is not supported"),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0, "twist": 1}},
            "'twist' is not understood",
        ),
        ("falcon", {"alibi": True}, "'alibi'"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": "all"}, "'max_window_layers' must be"),
        ("gpt2", {"add_cross_attention": True}, "'add_cross_attention'"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "'gptq'"),
        ("llama", {"quantization_config": {"quant_method": "mxfp4"}}, "'mxfp4'"),  # gpt-oss's alone
        (
            "gpt_oss",
            {"num_local_experts": 4, "quantization_config": {"bits": 4}},
            "quantized with {'bits': 4}",
        ),
        (
            "falcon",
            {"new_decoder_architecture": True, "parallel_attn": False},
            "'parallel_attn' must be true",
        ),
        ("gemma", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' is not supported"),
        ("gpt2", {"n_embd": 32, "n_head": 5}, r"'n_embd' must be a multiple of 'n_head' \(5\)"),
        ("ministral3", {"rope_parameters": [1]}, "'rope_parameters' must be an object"),
        ("smollm3", {"no_rope_layers": [1]}, "'no_rope_layers' must be a list of 2 zeros and ones"),
        (
            "gemma3_text",
            {"layer_types": ["round"] * 2},
            "'layer_types' must be a list of 2 of full_attention",
        ),
        (
            "llama",
            {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
            r"'high_freq_factor' must be above 'low_freq_factor' \(4.0\)",
        ),
        ("llama", {"rope_scaling": {**LONGROPE, "long_factor": [1.0]}}, "'long_factor' must be a list of 4"),
        ("llama", {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "needs 4 rotary"),
        ("mamba", {}, "'mamba' is not supported; supported are .*falcon.*llama"),
        ("mistral3", {"text_config": {"model_type": [7]}}, r"'model_type'"),
        ("cohere2", {"layer_types": [["full_attention"]] * 2}, "'layer_types' must be a list of 2"),
        ("gemma", {"hidden_act": ["gelu"]}, "'hidden_act' must be one of"),
        ("olmo3", {"rope_parameters": {"full_attention": 5}}, "'rope_parameters' must be an object"),
    ],
)
def test_what_would_change_the_mathematics_is_refused_by_name(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config(model_type, **changes)


def test_gemma3_rotates_its_two_kinds_of_layers_differently_in_both_spellings() -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    old = config(
        "gemma3_text", rope_theta=900.0, rope_local_base_freq=70.0, rope_scaling=scaling, sliding_window=8
    )
    both = {
        "full_attention": {**scaling, "rope_theta": 900.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
    }
    assert config("gemma3_text", rope_parameters=both, sliding_window=8) == old
    assert (old.rope.type, old.rope.theta) == ("linear", 900.0)
    assert old.window_rope is not None
    assert (old.window_rope.type, old.window_rope.theta) == ("default", 70.0)


def test_olmo3_scales_the_rope_of_its_full_layers_only_in_both_spellings() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    old = config("olmo3", rope_theta=900.0, rope_scaling=yarn)
    both = {
        "full_attention": {**yarn, "rope_theta": 900.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 900.0},
    }
    assert config("olmo3", rope_parameters=both) == old
    assert old.window_rope is not None
    assert (old.rope.type, old.window_rope.type) == ("yarn", "default")


def test_rope_parameters_that_are_not_by_kind_of_layer_are_refused_where_they_must_be() -> None:
    with pytest.raises(InputError, match="full_attention and sliding_attention"):
        config("olmo3", rope_parameters={"rope_type": "linear", "factor": 4.0})


def test_gpt_oss_in_the_hubs_spelling_is_what_its_missing_keys_default_to() -> None:
    yarn = {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    }
    sizes = {"num_attention_heads": 8, "num_local_experts": 32, "max_position_embeddings": 131072}
    said = {
        "attention_bias": True,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "initial_context_length": 4096,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_experts_per_tok": 4,
        "num_key_value_heads": 8,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        "rms_norm_eps": 1e-05,
        "rope_scaling": yarn,
        "rope_theta": 150000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
    }
    hub = config("gpt_oss", **sizes, **said)
    assert hub == config("gpt_oss", **sizes)
    assert (hub.windows, hub.rope.truncate, hub.rope.theta) == ((128, 0), False, 150_000.0)
    assert (hub.context_length, hub.head_dim) == (131072, 64)


YARN = {"type": "yarn", "factor": 2.0}


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("llama", {"num_hidden_layers": 65_536}, "'num_hidden_layers' must be at most 1024, it is 65536"),
        ("llama", {"num_hidden_layers": 10**400}, "'num_hidden_layers' must be at most 1024"),
        ("gpt2", {"n_layer": 65_536}, "'n_layer' must be at most 1024"),
        ("llama", {"head_dim": 2**32}, "'head_dim' must be at most 65536, it is 4294967296"),
        (
            "llama",
            {"num_attention_heads": 2**31, "head_dim": 8},
            "'num_attention_heads' must be at most 4096",
        ),
        ("llama", {"hidden_size": 2**63, "head_dim": 8}, "'hidden_size' must be at most 4194304"),
        ("llama", {"vocab_size": 1e300}, "'vocab_size' must be at most 4194304"),
        ("gpt2", {"n_embd": 2**21, "n_head": 8}, "'n_inner' must be at most 4194304, it is 8388608"),
        (
            "mixtral",
            {"num_local_experts": 10**6, "num_key_value_heads": 4},
            "'num_local_experts' must be at most 4096",
        ),
        (
            "mixtral",
            {"num_local_experts": 4096, "num_hidden_layers": 1024, "num_key_value_heads": 4},
            "4096 experts in 1024 layers are more than 32768",
        ),
        (
            "deepseek_v3",
            {"q_lora_rank": 1e30, "n_group": 1, "topk_group": 1},
            "'q_lora_rank' must be at most",
        ),
        ("llama", {"max_position_embeddings": 2**31}, "'max_position_embeddings' must be at most 2147483647"),
        (
            "mistral",
            {"sliding_window": 2**63, "num_key_value_heads": 4},
            "'sliding_window' must be at most 2147483647",
        ),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2**63}, "'max_window_layers' must be"),
        ("llama", {"rope_theta": 10**400}, "'rope_theta' must be between 1e-37 and"),
        ("llama", {"rms_norm_eps": 1e-320}, "'rms_norm_eps' must be between 1e-37 and"),
        ("llama", {"rms_norm_eps": float("nan")}, "'rms_norm_eps' must be a number above 0"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 1e30}}, "a context of 128000"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 1e-30}}, "a context of 0 tokens of 128"),
        ("llama", {"rope_theta": 1, "rope_scaling": YARN}, "'rope_theta' must be above 1"),
        ("phi3", {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 1}}, "above 1, it is 1"),
        (
            "phi3",
            {"rope_scaling": {**LONGROPE, "short_factor": [10**400] * 4}},
            "'short_factor' must be a list",
        ),
    ],
)
def test_numbers_that_are_no_model_s_are_refused_before_anything_is_made_of_them(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    longrope = {"original_max_position_embeddings": None} if model_type == "phi3" else {}
    with pytest.raises(InputError, match=message):
        config(model_type, **changes, **longrope)

"""The odd keys of well-known repositories' `config.json`, with the sizes that matter: what they must be read as."""

from typing import Any

import pytest

from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.model.config import Config


def config(model_type: str, layers: int, heads: int, width: int, **changes: Any) -> Config:
    sizes = {"vocab_size": 1000, "intermediate_size": 64, "hidden_size": width}
    counts = {"num_hidden_layers": layers, "num_attention_heads": heads}
    return read_config({"model_type": model_type, **sizes, **counts, **changes})[1]


def test_longchats_own_key_is_a_linear_rope() -> None:
    """It is older than `rope_scaling`, and transformers passes over it."""
    longchat = config("llama", 2, 32, 4096, max_position_embeddings=2048, rope_condense_ratio=8)
    linear = {"rope_type": "linear", "factor": 8.0}
    assert longchat == config("llama", 2, 32, 4096, max_position_embeddings=2048, rope_scaling=linear)
    assert longchat.context_length == 16_384


def test_r1_0528_qwen3_takes_back_yarns_attention_factor() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    read = config(
        "qwen3", 2, 32, 4096, rope_scaling={**yarn, "attn_factor": 0.8782488562869419}, rope_theta=1_000_000
    )
    assert read.rope.attention_factor == pytest.approx(1.0)


def test_command_r_says_its_context_apart_from_its_positions() -> None:
    read = config("cohere", 2, 64, 8192, max_position_embeddings=8192, model_max_length=131_072)
    assert (read.context_length, read.tie_embeddings) == (131_072, True)


def test_command_r7b_and_its_keys_without_effect() -> None:
    read = config(
        "cohere2", 4, 32, 4096, layer_switch=4, order_of_interleaved_layers="local_attn_first", rotary_pct=1.0,
        position_embedding_type="rope_gptj", use_parallel_block=True, use_gated_activation=True, sliding_window=4096,
    )  # fmt: skip
    assert read.windows == (4096, 4096, 4096, 0)
    assert read.unrotated_layers == (3,)


@pytest.mark.parametrize("name", ["longrope", "su"])
def test_phi_4_mini_and_longropes_first_name(name: str) -> None:
    lists = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    read = config(
        "phi3", 2, 24, 3072, rope_scaling={"type": name, **lists}, partial_rotary_factor=0.75, full_attn_mod=1,
        interpolate_factor=1, lm_head_bias=False, max_position_embeddings=131_072, sliding_window=262_144,
        original_max_position_embeddings=4096,
    )  # fmt: skip
    assert (read.rope.type, read.rope.dim, read.head_dim) == ("longrope", 96, 128)
    assert (read.rope.original_max_positions, read.context_length) == (4096, 131_072)
    assert read.rope.attention_factor == pytest.approx(1.1902, abs=1e-4)


def test_exaone_4_says_its_windows_twice() -> None:
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    large = config(
        "exaone4", 4, 40, 5120, layer_types=kinds, sliding_window=64, sliding_window_pattern="LLLG"
    )
    assert (large.windows, large.unrotated_layers) == ((64, 64, 64, 0), (3,))
    small = config("exaone4", 4, 32, 2048, layer_types=["full_attention"] * 4, sliding_window=None)
    assert (any(small.windows), small.unrotated_layers) == (False, ())


def test_gemma_3_with_images_says_little() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024}
    scaling = {"rope_type": "linear", "factor": 8.0}
    _, read = read_config({"model_type": "gemma3", "text_config": {**text, "rope_scaling": scaling}})
    assert (read.n_heads, read.n_kv_heads, read.head_dim, read.tie_embeddings) == (8, 4, 256, True)
    assert (read.context_length, read.rope.factor, read.windows[4:7]) == (131_072, 8.0, (1024, 0, 1024))
    assert read.window_rope is not None
    assert (read.window_rope.theta, read.window_rope.type) == (10_000.0, "default")


def test_a_rope_by_length_in_the_layers_with_a_window_is_refused() -> None:
    ropes = {"full_attention": {}, "sliding_attention": {"rope_type": "dynamic", "factor": 2.0}}
    with pytest.raises(InputError, match="'dynamic' is not supported for 'sliding_attention'"):
        config("olmo3", 4, 4, 64, rope_parameters=ropes)

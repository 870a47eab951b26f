"""Multimodal repositories as the Hub has them: sparse configurations, two spellings of the names, end tokens."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.families import read_config
from mygpt.model.config import QueryScaling
from tests.families.variants import variant

PREFIXES = (  # the Hub's, and transformers 5's
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)


def load(folder: Path) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


def respelled(name: str, spelling: int) -> str:
    """A weight's name in the spelling of that number in `PREFIXES`."""
    for spellings in PREFIXES:
        for prefix in reversed(spellings):
            if name.startswith(prefix):
                return spellings[spelling] + name.removeprefix(prefix)
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["gemma3", "gemma3-untied", "mistral3", "mistral3-tied"])
def test_both_spellings_of_the_names_are_the_same_model(name: str, tmp_path: Path) -> None:
    variant(name).build(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors, logits = load_file(file), []
    for spelling in (0, 1):
        renamed = {respelled(name, spelling): tensor for name, tensor in tensors.items()}
        save_file(renamed, file, metadata={"format": "pt"})
        logits.append(load(tmp_path).logits([[1, 2, 3, 4]]))
    torch.testing.assert_close(*logits, rtol=0, atol=0)


def test_the_end_tokens_of_the_language_model_count(tmp_path: Path) -> None:
    variant("gemma3").build(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["eos_token_id"], config["text_config"]["eos_token_id"] = [7], 9
    file.write_text(json.dumps(config))
    assert load(tmp_path).loaded.stop_ids == {7, 9}


def test_gemma3_takes_from_transformers_what_the_file_leaves_out() -> None:
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    _, config = read_config({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert (config.n_heads, config.n_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262_208)
    assert (config.context_length, config.rope.factor, config.rope.theta) == (131_072, 8.0, 1e6)
    assert config.windows[:6] == (1024,) * 5 + (0,)
    assert config.tie_embeddings


def test_ministral3_takes_from_transformers_what_the_file_leaves_out() -> None:
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 32, "intermediate_size": 64,
    }  # fmt: skip
    text = {"model_type": "ministral3", **sizes}
    _, config = read_config({"model_type": "mistral3", "text_config": text, "tie_word_embeddings": True})
    assert (config.n_kv_heads, config.head_dim, config.context_length) == (8, 128, 262_144)
    assert (config.rope.type, config.rope.factor, config.rope.attention_factor) == ("yarn", 16.0, 1.0)
    assert config.query_scaling == QueryScaling(beta=0.1, interval=16_384)
    assert ({*config.windows}, config.norm_eps) == ({0}, 1e-5)
    assert config.tie_embeddings
    assert not read_config({"model_type": "ministral3", **sizes})[1].tie_embeddings


def test_mistral3_refuses_a_language_model_of_another_kind() -> None:
    with pytest.raises(InputError, match="'model_type' must be one of mistral, ministral3, it is 'mamba'"):
        read_config({"model_type": "mistral3", "text_config": {"model_type": "mamba"}})


@pytest.mark.parametrize("text", [None, 3])
def test_without_a_language_model_the_config_is_refused(text: object) -> None:
    with pytest.raises(InputError, match="'text_config'"):
        read_config({"model_type": "gemma3", "text_config": text})

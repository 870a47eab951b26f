"""GPT-2's files as OpenAI's repositories have them, and its table of positions."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.model.gpt import GPT
from tests.families.variants import variant


def load(folder: Path) -> LLM:
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


def test_names_without_the_prefix_are_the_same_model(tmp_path: Path) -> None:
    variant("gpt2").build(tmp_path)
    ids = [[1, 2, 3, 4]]
    expected = load(tmp_path).logits(ids)
    file = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 64, 64) for i in range(2)}
    save_file({**tensors, **masks}, file, metadata={"format": "pt"})
    assert "wpe.weight" in tensors
    torch.testing.assert_close(load(tmp_path).logits(ids), expected, rtol=0, atol=0)


@torch.inference_mode()
def test_padding_may_lie_past_the_table_and_tokens_may_not(tmp_path: Path) -> None:
    variant("gpt2").build(tmp_path)
    llm = load(tmp_path)
    model, positions = llm.loaded.model, llm.config.learned_positions
    assert isinstance(model, GPT)
    assert llm.config.context_length == positions
    ids = torch.randint(0, llm.config.vocab_size, (1, positions + 3))
    padded = model(ids)[:, :positions]
    torch.testing.assert_close(padded, llm.logits(ids[:, :positions]), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=f"context of {positions}"):
        llm.logits(ids)

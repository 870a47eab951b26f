"""FP8 weights in blocks: what they stand for, and pairs that are none."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.quantize.formats.fp8 import dequantize, dequantized
from tests.families.variants import variant

CPU = torch.device("cpu")


def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Block by block, so that the largest number of each is E4M3's largest, 448."""
    rows, columns = (-(-size // 128) for size in weight.shape)
    numbers, scales = torch.empty_like(weight, dtype=torch.float8_e4m3fn), torch.empty(rows, columns)
    for i in range(rows):
        for j in range(columns):
            block = (slice(128 * i, 128 * (i + 1)), slice(128 * j, 128 * (j + 1)))
            scales[i, j] = weight[block].abs().max() / 448
            numbers[block] = (weight[block] / scales[i, j]).to(torch.float8_e4m3fn)
    return numbers, scales


@pytest.mark.parametrize("shape", [(1, 1), (128, 256), (130, 300), (129, 64)])
def test_numbers_times_the_factors_of_their_blocks(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape) * torch.logspace(-3, 3, shape[1])
    numbers, scales = quantize(weight)
    ours = dequantize(numbers, scales)
    for row in range(0, shape[0], 7):
        for column in range(0, shape[1], 5):
            expected = numbers[row, column].float() * scales[row // 128, column // 128]
            assert ours[row, column] == expected


def test_a_quantized_repository_is_its_dequantized_one(tmp_path: Path) -> None:
    """In DeepSeek's, embeddings, head, norms and routers are not quantized."""
    for folder in ("plain", "fp8"):
        variant("deepseek-v3").build(tmp_path / folder)
    file = tmp_path / "fp8" / "model.safetensors"
    plain, stored = load_file(file), {}
    for name, tensor in plain.items():
        if name.endswith("_proj.weight") or "kv_a_proj" in name:
            numbers, stored[name + "_scale_inv"] = quantize(tensor)
            stored[name], plain[name] = numbers, dequantize(numbers, stored[name + "_scale_inv"])
        else:
            stored[name] = tensor
    save_file(stored, file)
    save_file(plain, tmp_path / "plain" / "model.safetensors")
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())
    config["quantization_config"] = {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]
    }  # fmt: skip
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(config))
    llms = [
        LLM.load(str(tmp_path / folder), precision="32-true", accelerator="cpu")
        for folder in ("plain", "fp8")
    ]
    assert torch.equal(*(llm.logits([[1, 2, 3]]) for llm in llms))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(2, 2, dtype=torch.float8_e4m3fn)}, "a has no a_scale_inv beside it"),
        ({"a_scale_inv": torch.zeros(1, 1)}, "a_scale_inv has no a beside it"),
        (
            {"a": torch.zeros(2, 129, dtype=torch.float8_e4m3fn), "a_scale_inv": torch.zeros(1, 1)},
            "is no FP8 matrix of blocks",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(dequantized(tensors.items(), CPU))

"""MXFP4: its numbers, gpt-oss's repositories in it, and pairs that are broken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GptOssConfig, PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from mygpt import LLM
from mygpt.errors import InputError
from mygpt.quantize.formats.mxfp4 import dequantize, dequantized
from tests.families.variants import WINDOW, Variant

CPU = torch.device("cpu")
LAYER = "model.layers.0.mlp.experts"


def random_pair(experts: int, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Blocks and scales; the numbers are about as large as a model's weights."""
    blocks = torch.randint(0, 256, (experts, rows, groups, 16), dtype=torch.uint8)
    return blocks, torch.randint(120, 126, (experts, rows, groups), dtype=torch.uint8)


def test_the_sixteen_numbers_low_half_first() -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    blocks = ((codes + 1) % 16 * 16 + codes)[None, None]  # each number with the next one in the high half
    numbers = dequantize(blocks, torch.full((1, 1), 127, dtype=torch.uint8))[0]
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    expected = positive + [-number for number in positive]
    assert numbers[0::2].tolist() == expected
    assert numbers[1::2].tolist() == expected[1:] + expected[:1]
    assert (numbers.dtype, numbers.signbit()[16].item()) == (torch.bfloat16, True)  # minus zero


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_scale_gives_what_transformers_makes_of_it(dtype: torch.dtype) -> None:
    blocks = torch.randint(0, 256, (1, 254, 2, 16), dtype=torch.uint8)
    scales = torch.arange(254, dtype=torch.uint8)[None, :, None].expand(1, 254, 2)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=dtype)[0].T
    assert torch.equal(dequantize(blocks[0], scales[0]).to(dtype), expected)


def test_the_scale_that_is_no_number_gives_none() -> None:
    blocks = torch.full((1, 1, 16), 0x22, dtype=torch.uint8)
    assert dequantize(blocks, torch.full((1, 1), 255, dtype=torch.uint8)).isnan().all()


@torch.no_grad()
def quantized_folder(folder: Path) -> PreTrainedModel:
    """Save a repository as the Hub has it, blocks and scales in two files; returns transformers' model of it."""
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4, "sliding_window": WINDOW}
    reference = Variant("gpt-oss", GptOssConfig, sizes).build(folder)
    tensors = load_file(folder / "model.safetensors")
    shards: tuple[dict[str, Tensor], ...] = ({}, {})
    for i, layer in enumerate(reference.model.layers):
        experts = layer.mlp.experts
        for name, rows, groups in (("gate_up_proj", 64, 2), ("down_proj", 64, 1)):
            blocks, scales = random_pair(experts.num_experts, rows, groups)
            getattr(experts, name).copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            file_name = f"model.layers.{i}.mlp.experts.{name}"
            del tensors[file_name]
            shards[i % 2][f"{file_name}_blocks"], shards[1 - i % 2][f"{file_name}_scales"] = blocks, scales
    shards[1].update(tensors)
    (folder / "model.safetensors").unlink()
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file)
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return reference


@torch.no_grad()
def test_a_quantized_repository_gives_transformers_logits(tmp_path: Path) -> None:
    reference = quantized_folder(tmp_path)
    ids = torch.randint(0, 128, (2, 3 * WINDOW))
    llm = LLM.load(str(tmp_path), precision="32-true", accelerator="cpu")
    torch.testing.assert_close(llm.logits(ids), reference(ids).logits, rtol=1e-4, atol=1e-4)
    prompt = ids[:1]
    theirs = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False
    )
    ours = llm.generate_ids(prompt[0].tolist(), max_new_tokens=20, temperature=0.0)
    assert ours == theirs[0, prompt.shape[1] :].tolist()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_it_is_the_same_model_on_the_gpu(tmp_path: Path) -> None:
    quantized_folder(tmp_path)
    cpu, gpu = (LLM.load(str(tmp_path), precision="32-true", accelerator=name) for name in ("cpu", "cuda"))
    ids = torch.randint(0, 128, (2, 3 * WINDOW))
    torch.testing.assert_close(gpu.logits(ids), cpu.logits(ids), rtol=1e-3, atol=1e-3)


def test_a_stream_is_paired_and_passes_one_expert_at_a_time() -> None:
    (blocks, scales), other = random_pair(3, 4, 2), torch.zeros(1)
    stream = [(f"{LAYER}.x_scales", scales), ("between", other), (f"{LAYER}.x_blocks", blocks)]
    taken = []

    def watched():
        for item in stream:
            taken.append(item[0])
            yield item

    found = dequantized(watched(), CPU)
    assert next(found) == ("between", other)
    assert len(taken) == 2
    for expert, (name, tensor) in enumerate(found):
        assert name == f"{LAYER}.{expert}.x"
        assert torch.equal(tensor, dequantize(blocks[expert], scales[expert]))
    assert expert == 2


@pytest.mark.parametrize(
    ("blocks", "scales", "message"),
    [
        (torch.zeros(2, 4, 2, 15), torch.zeros(2, 4, 2), r"blocks \(2, 4, 2, 15\)"),
        (torch.zeros(2, 4, 2, 16), torch.zeros(2, 4, 1), r"scales \(2, 4, 1\)"),
        (torch.zeros(2, 4, 32), torch.zeros(2, 4), r"blocks \(2, 4, 32\)"),
        (torch.zeros(()), torch.zeros(()), r"blocks \(\)"),
        (torch.zeros(2, 4, 2, 16), None, "x_blocks has no .*x_scales beside it"),
        (None, torch.zeros(2, 4, 2), "x_scales has no .*x_blocks beside it"),
    ],
)
def test_a_broken_pair_is_an_error_of_one_line(
    blocks: Tensor | None, scales: Tensor | None, message: str
) -> None:
    pair = {f"{LAYER}.x_blocks": blocks, f"{LAYER}.x_scales": scales}
    stream = [(name, tensor.byte()) for name, tensor in pair.items() if tensor is not None]
    with pytest.raises(InputError, match=message) as error:
        list(dequantized(stream, CPU))
    assert "\n" not in str(error.value)


def test_floats_in_place_of_bytes_are_refused() -> None:
    blocks, scales = random_pair(2, 4, 2)
    with pytest.raises(InputError, match=r"blocks \(2, 4, 2, 16\) torch.float32"):
        list(dequantized([("x_blocks", blocks.float()), ("x_scales", scales)], CPU))


@pytest.mark.parametrize("shape", [(7, 64, 2), (5, 64, 2), (6, 63, 2), (6, 64, 3)])
def test_blocks_that_do_not_fit_the_configuration_are_an_error_of_one_line(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    quantized_folder(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        tensors = load_file(file)
        for name in (f"{LAYER}.gate_up_proj_blocks", f"{LAYER}.gate_up_proj_scales"):
            if name in tensors:
                tensors[name] = random_pair(*shape)[name.endswith("scales")]
        save_file(tensors, file)
    with pytest.raises(InputError, match="do not fit") as error:
        LLM.load(str(tmp_path), precision="32-true", accelerator="cpu")
    assert "\n" not in str(error.value)

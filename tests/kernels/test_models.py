"""Whole models give the same with kernels and without: over chunks, windows, ragged batches, whole blocks."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mygpt.kernels.cpu import isa
from mygpt.kernels.cpu.library import Library
from mygpt.model.config import Config, RopeConfig
from mygpt.model.fused_block import fuse_blocks
from mygpt.model.gpt import GPT
from mygpt.model.kv_cache import KVCache, LayerShape
from tests.kernels.conftest import check

Hold = Callable[[str], Library | None]


def llama(**changes: object) -> Config:
    sizes = {
        "vocab_size": 64,
        "n_layers": 2,
        "hidden_size": 48,
        "n_heads": 6,
        "n_kv_heads": 2,
        "head_dim": 32,
    }
    facts = {"intermediate_size": 72, "context_length": 512, "rope": RopeConfig(dim=32)}
    return Config(**{**sizes, **facts, **changes})  # type: ignore[arg-type]


CONFIGS = {
    "llama": llama(),
    "partly rotated, biases": llama(rope=RopeConfig(dim=16), attention_bias=True, mlp_bias=True),
    "one key head": llama(n_kv_heads=1, n_heads=3),
    "window": llama(layer_windows=(0, 40)),
    "query norm": llama(qk_norm="head"),
    "not rotated": llama(unrotated_layers=(1,)),
    "gemma": llama(norm="rms_one_plus", activation="gelu_tanh", residual="sandwich"),
    "one plus": llama(norm="rms_one_plus", activation="gelu_tanh"),
    "scaled": llama(residual_scale=0.3, attention_scale=0.2),
    "softcap": llama(attention_softcap=5.0),
    "heads of 80": llama(head_dim=80, rope=RopeConfig(dim=80)),
}
FUSED = (
    "llama",
    "partly rotated, biases",
    "one key head",
    "window",
    "not rotated",
    "one plus",
    "scaled",
    "heads of 80",
)


def random_model(config: Config, dtype: torch.dtype) -> GPT:
    model = GPT(config).to(dtype).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    return model


def steps(model: GPT, prompts: Tensor, lengths: list[int], new: Tensor) -> Tensor:
    """Logits of a prefill and of single steps after it, of sequences of different lengths."""
    shapes = [LayerShape(model.config.n_kv_heads, model.config.head_dim, w) for w in model.config.windows]
    dtype = model.embed.weight.dtype
    cache = KVCache(shapes, len(prompts), 400, [torch.device("cpu")] * len(shapes), dtype, 400)
    last = [length - 1 for length in lengths]
    logits = [model(prompts, cache, logits_indices=last)]
    cache.advance(lengths)
    for ids in new:
        logits.append(model(ids[:, None], cache, logits_indices=[0] * len(prompts)))
        cache.advance([1] * len(prompts))
    return torch.stack(logits)


def inputs(lengths: list[int], count: int) -> tuple[Tensor, Tensor]:
    return torch.randint(64, (len(lengths), max(lengths))), torch.randint(64, (count, len(lengths)))


@pytest.mark.parametrize("lengths", [[5], [300], [5, 139, 60], [30, 30]], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_models(kernels: Library, name: str, lengths: list[int], hold: Hold) -> None:
    """The same logits with kernels, part by part and block by block, and without, cache included."""
    model = random_model(CONFIGS[name], torch.float32)
    prompts, new = inputs(lengths, 4)
    by_parts = steps(model, prompts, lengths, new)
    fuse_blocks(model)
    assert all((getattr(layer, "fused", None) is not None) == (name in FUSED) for layer in model.layers)
    by_blocks = steps(model, prompts, lengths, new)
    hold("none")
    without = steps(model, prompts, lengths, new).double()
    check(by_parts, without)
    check(by_blocks, without)


@pytest.mark.parametrize("lengths", [[9], [5, 139, 60]], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_models_in_bfloat16(kernels: Library, name: str, lengths: list[int], hold: Hold) -> None:
    """As near to the same model in float64 as torch's bfloat16 is."""
    model = random_model(CONFIGS[name], torch.bfloat16)
    fuse_blocks(model)
    prompts, new = inputs(lengths, 3)
    with_kernels = steps(model, prompts, lengths, new)
    hold("none")
    without = steps(model, prompts, lengths, new)
    reference = steps(copy.deepcopy(model).double(), prompts, lengths, new)
    ours, torchs = ((y.double() - reference).norm() / reference.norm() for y in (with_kernels, without))
    assert ours < 1.3 * torchs + 1e-3


@torch.inference_mode()
def test_other_weights_than_a_block_was_fused_with(kernels: Library, hold: Hold) -> None:
    """Copied, cast, changed in place, or fused anew: never those that were there before."""
    model = random_model(llama(), torch.bfloat16)
    prompts, new = inputs([9], 3)
    fuse_blocks(model)
    other = copy.deepcopy(model)
    assert all(layer.fused is not None for layer in model.layers)
    assert all(layer.fused is None for layer in other.layers)
    other.layers[0].mlp.down.weight.mul_(2)  # the copy's own
    cast = copy.deepcopy(model)
    fuse_blocks(cast)
    cast.float().layers[0].mlp.down.weight.mul_(2)
    cast.bfloat16()
    changed, anew = copy.deepcopy(model), copy.deepcopy(model)
    for each in (changed, anew):
        fuse_blocks(each)
    changed.layers[1].mlp.down.weight.mul_(2)
    down = anew.layers[1].mlp.down
    down.weight = torch.nn.Parameter(down.weight * 2, requires_grad=False)
    fuse_blocks(anew)
    models = model, other, cast, changed, anew
    with_kernels = [steps(each, prompts, [9], new) for each in models]
    assert torch.equal(with_kernels[3], with_kernels[4])
    assert not torch.equal(with_kernels[0], with_kernels[3])
    hold("none")
    for y, each in zip(with_kernels, models, strict=True):
        check(y, steps(each, prompts, [9], new).double(), torch.bfloat16)


@torch.inference_mode()
def test_a_fused_block_of_another_level_is_not_used(hold: Hold) -> None:
    """Kernels may be held to another level while a model lives: only tests do so, and nothing breaks."""
    model = random_model(llama(), torch.float32)
    prompts, new = inputs([5], 2)
    outputs = []
    for level in (*reversed(isa.machine_levels()), "none"):
        hold(level)
        if not outputs:
            fuse_blocks(model)
        outputs.append(steps(model, prompts, [5], new))
    for y in outputs:
        check(y, outputs[-1].double())

"""Deep models in bfloat16: our rounding costs no more than transformers', and no family's adds up over the layers.

A random model of 24 layers makes much of little: two right computations in bfloat16 are as far from each other as
each is from float32. So there are two bounds: how near the logits are to transformers' in bfloat16, and that ours
are not further from float32 than those. The second is the sharp one: it fails where Gemma's `1 + weight` is
rounded, or OLMo 2's norms.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from mygpt import LLM
from tests.families.variants import FIRST, Variant, variant
from tests.families.variants.base import TINY

N_LAYERS = 24
PROMPTS, LENGTH = 8, 100
# A multimodal model's language model is another family's.
DEEP = {name: v for name, v in FIRST.items() if "text_config" not in v.changes}
# Norms by weight and by 1 + weight, before and after; a mixture of experts.
DEFAULT = ("llama", "gemma2", "olmo2", "mixtral")


def build_deep(variant: Variant, folder: Path) -> None:
    """The variant with more layers, rounded to bfloat16: what is compared is the computation alone."""
    layers = next(key for key in ("n_layer", "num_hidden_layers") if key in TINY[variant.config])
    # As in trained models; the other tests' larger weights would amplify the rounding itself.
    changes = {**variant.changes, layers: N_LAYERS, "initializer_range": 0.02}
    replace(variant, changes=changes).build(folder).bfloat16().save_pretrained(folder)


@torch.no_grad()
def transformers_logits(folder: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """LoadedModel anew, since casting a model that is there would round its rope's frequencies too."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model(ids).logits.float()


def far(logits: Tensor, others: Tensor) -> Tensor:
    """1 - cosine of each token's logits."""
    return 1 - F.cosine_similarity(logits.double(), others.double(), dim=-1).flatten()


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.full) for name in sorted(DEEP)],
)
def test_deep_bf16_logits_are_as_good_as_transformers(model_type: str, tmp_path: Path) -> None:
    build_deep(DEEP[model_type], tmp_path)
    llm = LLM.load(str(tmp_path), precision="bf16-true", accelerator="cpu")
    ids = torch.randint(0, llm.config.vocab_size, (PROMPTS, min(LENGTH, llm.config.context_length)))
    ours = llm.logits(ids).float()
    theirs = transformers_logits(tmp_path, ids, torch.bfloat16)
    exact = transformers_logits(tmp_path, ids, torch.float32)
    # Where a router's choice is a close call, that token and those behind it are far off by chance.
    apart = far(ours, theirs)
    assert (apart.mean() if llm.config.moe is None else apart.median()) < 1 - 0.999
    assert far(ours, exact).quantile(0.25) < 1.2 * far(theirs, exact).quantile(0.25)


@pytest.mark.parametrize("name", ["llama-llama3", "phi3-longrope", "gemma3-text"])
def test_far_positions_are_exact_in_bf16(name: str, tmp_path: Path) -> None:
    """Rounded frequencies or positions would turn the far tokens by whole radians: only cos and sin are rounded."""
    variant(name).build(tmp_path)
    positions = torch.arange(100_000, 100_100)[None]
    tables = []
    for precision in ("32-true", "bf16-true"):
        model = LLM.load(str(tmp_path), precision=precision, accelerator="cpu").loaded.model
        tables.append(model.rope(positions, torch.tensor([100_100]), model.embed.weight.dtype))
    for exact, rounded in zip(*tables, strict=True):
        assert torch.equal(exact.bfloat16(), rounded)

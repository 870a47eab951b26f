"""Each family's names: every tensor of a checkpoint lands in one place, and every place is filled."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mygpt.checkpoint.fill import translated, weight_targets
from mygpt.families import FAMILIES, read_config
from mygpt.model.gpt import GPT
from tests.families.variants import VARIANTS, Variant, once, reads_rope_as_llama


@pytest.mark.parametrize("variant", once(VARIANTS, lambda v: not reads_rope_as_llama(v)))
def test_names_round_trip_with_nothing_left_over(variant: Variant, tmp_path: Path) -> None:
    reference = variant.build(tmp_path)
    family, config = read_config(reference.config.to_dict())
    with torch.device("meta"):
        model = GPT(config)
    ours = [name for name, _ in translated(load_file(tmp_path / "model.safetensors").items(), family, config)]
    assert len(set(ours)) == len(ours)
    assert set(ours) == set(weight_targets(model))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_a_skipped_tensor_is_skipped_and_an_unknown_one_is_not(family) -> None:
    tensor = torch.zeros(1)
    for template in family.skipped:
        assert family.translate(template.format(i=11, rest="3.fc1.weight"), tensor, None) == ()
    assert family.translate("model.layers.0.self_attn.unheard_of.weight", tensor, None) is None

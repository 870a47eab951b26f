"""The numbers of `config.json` against the weights' headers, of each family; before a model is built by them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mygpt.checkpoint.config_check import checked_config
from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError
from mygpt.families import read_config
from tests.families.variants import FIRST, VARIANTS, Variant
from tests.models import edit_json

# Keys of config.json that say how large weights are.
SIZES = (
    *("num_hidden_layers", "n_layer", "vocab_size", "hidden_size", "n_embd", "intermediate_size", "n_inner"),
    *("ffn_hidden_size", "head_dim", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *(
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "n_shared_experts",
        "kv_lora_rank",
        "v_head_dim",
    ),
)


def grown(raw: dict[str, Any], key: str) -> dict[str, Any]:
    return {key: 2 * raw[key]} if isinstance(raw.get(key), int) else {}


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here builds one."""
    monkeypatch.setattr("mygpt.model.gpt.GPT.__init__", lambda *_: pytest.fail("built a model"))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "yarn" not in v.name], ids=str)
def test_the_numbers_of_every_family_are_those_of_its_files(variant: Variant, tmp_path: Path) -> None:
    variant.build(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checked_config(checkpoint) == read_config(checkpoint.config)


@pytest.mark.parametrize("variant", FIRST.values(), ids=FIRST)
def test_a_number_that_is_not_the_files_is_told(variant: Variant, tmp_path: Path) -> None:
    variant.build(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    tried, before = [], read_config(raw)
    moe = before[1].moe
    all_experts = moe is not None and len(moe.layers) == before[1].n_layers
    for key in SIZES:
        if key == "intermediate_size" and all_experts and "moe_intermediate_size" in raw:
            continue
        part = raw.get("text_config", raw)
        if not (change := grown(part, key)):
            continue
        changed = {**part, **change}
        for lists in ("layer_types", "no_rope_layers"):
            if isinstance(kinds := changed.get(lists), list) and key == "num_hidden_layers":
                changed[lists] = 2 * kinds
        edit_json(tmp_path / "config.json", **({"text_config": changed} if part is not raw else changed))
        try:
            if read_config(open_checkpoint(tmp_path).config) == before:  # it is of no use in this family
                continue
        except InputError:  # it does not fit the config's other numbers
            continue
        with pytest.raises(InputError) as caught:
            checked_config(open_checkpoint(tmp_path))
        assert f"'{key}' {change[key]}" in str(caught.value)
        tried.append(key)
        edit_json(tmp_path / "config.json", **raw)
    assert {"vocab_size", "num_hidden_layers"} <= {*tried} or {"vocab_size", "n_layer"} <= {*tried}


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FIRST["llama"].build(tmp_path)
    monkeypatch.setattr(
        "mygpt.checkpoint.safetensors_file.SafetensorsFile.read", lambda *_: pytest.fail("read")
    )
    checked_config(open_checkpoint(tmp_path))


@pytest.mark.parametrize(
    "name", [f"model.layers.{'9' * 5000}.mlp.up_proj.weight", "model.layers.\u0663.mlp.up_proj.weight"]
)
def test_a_layer_s_number_that_is_none(name: str, tmp_path: Path) -> None:
    """Of 5,000 digits Python makes no number; other scripts' digits are none of a name's."""
    FIRST["llama"].build(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    shapes = {**checkpoint.shapes(), name: (torch.Size((1, 1)), torch.float32)}
    family, config = read_config(checkpoint.config)
    checkpoint.__dict__["_shapes"] = shapes
    assert checked_config(checkpoint)[1] == config
    assert family.translate(name, torch.ones(1), config) is None

"""config_hub/: the presets are options of their commands, of models that mygpt runs, and fit what they say.

That each parses, and goes as far as a model, test_commands.py shows: the command at its top is one of those.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mygpt.__main__ import main
from mygpt.families import FAMILIES
from tests.loading.test_plan import CONFIGS
from tests.pages.collect import PAGES, PRESETS, ROOT, inline_code, name_of, read
from tests.pages.runner import options_of

# Of models that are no family's example: their model_type.
OTHERS = {
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "llama",
    "Qwen/Qwen3-1.7B": "qwen3",
    "meta-llama/Llama-3.1-8B-Instruct": "llama",
    "meta-llama/Llama-3.2-3B-Instruct": "llama",
    "meta-llama/Llama-3.3-70B-Instruct": "llama",
    "microsoft/Phi-4-reasoning": "phi3",
}
EXAMPLES = {example: family.model_type for family in FAMILIES.values() for example in family.examples}
QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
# The sizes of the models whose presets say where they fit.
SIZES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-70b-chat-hf": CONFIGS["llama-2-70b"],
    "meta-llama/Llama-3.3-70B-Instruct": {
        **CONFIGS["llama-2-70b"], "vocab_size": 128_256, "max_position_embeddings": 131_072
    },
    "tiiuae/falcon-40b": CONFIGS["falcon-40b"],
    "Qwen/Qwen3-1.7B": {
        **QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "max_position_embeddings": 40_960,
    },
    "Qwen/Qwen3-4B-Instruct-2507": {
        **QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "max_position_embeddings": 262_144,
    },
}  # fmt: skip
PLANNED = ("devices", "strategy", "cpu_offload", "precision", "quantize", "max_new_tokens")
LAPTOP_SHARE = 0.5  # of a laptop's memory: the rest is for the system and a browser

Plan = Callable[..., dict[str, Any]]


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    """`mygpt plan` of a preset, with the memory of a device."""

    def plan(preset: Path, memory: str, *more: str) -> dict[str, Any]:
        options = options_of(name_of(preset))
        config = tmp_path / "config.json"
        sizes = SIZES[options["checkpoint"]]
        context = options.get("context_length", sizes["max_position_embeddings"])
        config.write_text(json.dumps({**sizes, "max_position_embeddings": context}))
        arguments = [f"--{name}={str(options[name]).lower()}" for name in PLANNED if name in options]
        command = f"--command={preset.parent.name}"
        assert (
            main(
                ["plan", str(config), command, "--json=true", f"--device_memory={memory}", *arguments, *more]
            )
            == 0
        )
        content: dict[str, Any] = json.loads(capsys.readouterr().out)
        return content

    return plan


@pytest.mark.parametrize("preset", PRESETS, ids=name_of)
def test_a_preset_says_how_to_run_it_and_where_its_numbers_come_from(preset: Path) -> None:
    comments = [line for line in read(preset).splitlines() if line.startswith("#")]
    assert comments[0].startswith(f"# mygpt {preset.parent.name} --config {name_of(preset)}")
    options = options_of(name_of(preset))
    assert "checkpoint" not in options or "https://" in "".join(comments[1:])


@pytest.mark.parametrize("preset", PRESETS, ids=name_of)
def test_the_model_of_a_preset_runs(preset: Path) -> None:
    checkpoint = options_of(name_of(preset)).get("checkpoint")
    assert checkpoint is None or {**EXAMPLES, **OTHERS}[checkpoint] in FAMILIES


@pytest.mark.parametrize("preset", [p for p in PRESETS if "70b" in p.name], ids=name_of)
def test_70b_fits_as_many_gpus_as_the_name_says(preset: Path, plan: Plan) -> None:
    count, gigabytes = re.search(r"(\d)x(\d+)gb", preset.name).groups()  # type: ignore[union-attr]
    assert options_of(name_of(preset))["devices"] == int(count)
    assert plan(preset, f"{gigabytes}GB")["fits"]


def test_falcon_40b_fits(plan: Plan) -> None:
    folder = ROOT / "config_hub" / "generate"
    assert plan(folder / "falcon-40b-4-gpus-fsdp.yaml", "40GB")["fits"]
    offloaded = plan(folder / "falcon-40b-2-gpus-offload.yaml", "24GB")
    assert offloaded["fits"]
    assert offloaded["host_peak_bytes"] < 100e9


@pytest.mark.parametrize("gigabytes", [8, 16])
def test_laptops(plan: Plan, gigabytes: int) -> None:
    preset = ROOT / "config_hub" / "chat" / f"laptop-{gigabytes}gb.yaml"
    cpu = ("--accelerator=cpu", "--precision=bf16-true")
    assert plan(preset, f"{gigabytes * LAPTOP_SHARE}GB", *cpu)["fits"]


def test_the_page_lists_every_preset() -> None:
    page = ROOT / "config_hub" / "README.md"
    assert page in PAGES
    listed = {code for code in inline_code(page) if code.endswith(".yaml")}
    assert listed == {preset.relative_to(ROOT / "config_hub").as_posix() for preset in PRESETS}

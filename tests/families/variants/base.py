"""What the tiny models of all families have in common."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM, AutoModelForImageTextToText

WINDOW = 10  # tokens
ORIGINAL = 32  # tokens; where the rope types that stretch begin to
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn-mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 8.0, "beta_slow": 2.0},
    "yarn-no-truncate": {**YARN, "truncate": False, "attention_factor": 1.3},
}


@dataclass(frozen=True)
class Variant:
    """A configuration class of transformers and what to change of the tiny default."""

    name: str
    config: type
    changes: dict[str, Any] = field(default_factory=dict)

    def tiny_config(self) -> PreTrainedConfig:
        """transformers' configuration."""
        config: PreTrainedConfig = self.config(**{**TINY[self.config], **self.changes})
        return config

    def build(self, folder: Path) -> PreTrainedModel:
        """Save a random model in `folder`; returns transformers' model of it."""
        torch.manual_seed(0)
        config = self.tiny_config()
        alone = type(config) in AutoModelForCausalLM._model_mapping
        auto = AutoModelForCausalLM if alone else AutoModelForImageTextToText
        model = auto.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms too, which start as 0 and 1
                parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05))
            for name, buffer in model.named_buffers():
                if (
                    name in model.state_dict()
                ):  # a weight that is not trained by gradients: a router's e_score_correction_bias
                    buffer.add_(torch.randn_like(buffer) * 0.1)
        model.save_pretrained(folder)
        return model

    @property
    def switch(self) -> str:
        """What the name says beside the family."""
        family = self.config.model_type.replace("_", "-")
        return self.name.removeprefix(family).removeprefix("-") or "default"

    def __str__(self) -> str:
        return self.name


SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
COMMON = {
    "vocab_size": 128,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 4 * ORIGINAL,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}
# The tiny default of each configuration class; a family's file adds its own.
TINY: dict[type, dict[str, Any]] = {}


# Divisors for heads of 8 dimensions.
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": ORIGINAL,
}


def ropes(family: str, config: type, **changes: Any) -> list[Variant]:
    """A variant for each rope type; `linear` and `dynamic` stretch the configured positions themselves."""
    return [
        Variant(
            f"{family}-{name}",
            config,
            {**changes, "rope_parameters": {"rope_theta": 10_000.0, **rope}}
            | ({"max_position_embeddings": ORIGINAL} if name in ("linear", "dynamic") else {}),
        )
        for name, rope in ROPES.items()
    ]


def full_attention_ropes(family: str, config: type, **changes: Any) -> list[Variant]:
    """A variant for each rope type of the layers with full attention; those with a window have the default one."""
    return [
        Variant(
            f"{family}-{name}",
            config,
            {
                **changes,
                "rope_parameters": {
                    "full_attention": {"rope_theta": 10_000.0, **rope},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
                },
            },
        )
        for name, rope in ROPES.items()
    ]

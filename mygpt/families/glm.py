"""GLM-4 (arXiv:2406.12793): Llama with biased queries, keys and values, half of each head rotated, and a fused MLP."""

from dataclasses import replace

from mygpt.families import _interleaved
from mygpt.families._base import Family, Split
from mygpt.families._fields import Fields
from mygpt.families.llama import SKIPPED, read_llama
from mygpt.families.phi3 import split_gate_up
from mygpt.model.config import Config

# GLM-4-0414 has them too.
NAMES: dict[str, str | Split] = {
    **_interleaved.NAMES,
    "model.layers.{i}.mlp.gate_up_proj.weight": Split(
        ("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.up.weight"), split_gate_up
    ),
}
_DEFAULTS = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-7,
    "attention_bias": True,
}


def read_glm(fields: Fields) -> Config:
    """The configuration of GLM-4 and of GLM-4-0414."""
    config = read_llama(Fields({**_DEFAULTS, **fields.raw}, fields.source))
    return replace(config, attention_output_bias=False, mlp_bias=False)


FAMILY = Family(
    model_type="glm",
    summary="GLM-4 9B, GLM-Edge",
    examples=("zai-org/glm-4-9b-chat-hf", "zai-org/glm-edge-1.5b-chat"),
    read_config=read_glm,
    names=NAMES,
    skipped=SKIPPED,
)

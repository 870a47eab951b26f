"""GLM-4-0414 and GLM-Z1 (Z.ai): GLM-4 with norms before and after attention and MLP."""

from dataclasses import replace

from mygpt.families._base import Family
from mygpt.families._fields import Fields
from mygpt.families.glm import NAMES, read_glm
from mygpt.families.llama import SKIPPED
from mygpt.model.config import Config


def _read_config(fields: Fields) -> Config:
    return replace(read_glm(fields), residual="sandwich")


FAMILY = Family(
    model_type="glm4",
    summary="GLM-4-0414 and GLM-Z1 9B, 32B",
    examples=("zai-org/GLM-4-9B-0414", "zai-org/GLM-4-32B-0414"),
    read_config=_read_config,
    names={
        **NAMES,
        "model.layers.{i}.post_self_attn_layernorm.weight": "layers.{i}.attention_post_norm.weight",
        "model.layers.{i}.post_mlp_layernorm.weight": "layers.{i}.mlp_post_norm.weight",
    },
    skipped=SKIPPED,
)

"""Makes the models that are measured, as Hugging Face folders in bfloat16.

    python benchmarks/make_model.py B TARGET

A is SmolLM2-135M-Instruct. B is 1.07 billion random parameters in llama's shape, and `tiny`, for the tests,
some more: their speed does not depend on the values. They get A's tokenizer, so that text works with them.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mygpt.checkpoint.open import open_checkpoint
from mygpt.checkpoint.write import write_folder
from mygpt.hub.resolve import resolve

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "head_dim": 64,
}
RANDOM: dict[str, dict[str, Any]] = {
    "B": LLAMA
    | {
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    # Llama 3's, but for a tied head: a token reads as many bytes.
    "8B": LLAMA
    | {
        "vocab_size": 128256,
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 500000.0,
    },
    "tiny": LLAMA
    | {
        "num_hidden_layers": 3,  # placement.py's parts
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
}


def shapes(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """The weights of a llama with tied embeddings, in the order of the file."""
    hidden, width = config["hidden_size"], config["intermediate_size"]
    queries, keys = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    layer = {
        "input_layernorm": [hidden],
        "self_attn.q_proj": [queries, hidden],
        "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden],
        "self_attn.o_proj": [hidden, queries],
        "post_attention_layernorm": [hidden],
        "mlp.gate_proj": [width, hidden],
        "mlp.up_proj": [width, hidden],
        "mlp.down_proj": [hidden, width],
    }
    layers = {
        f"model.layers.{i}.{name}.weight": shape
        for i in range(config["num_hidden_layers"])
        for name, shape in layer.items()
    }
    embed = {"model.embed_tokens.weight": [config["vocab_size"], hidden]}
    return embed | layers | {"model.norm.weight": [hidden]}


def random_weight(shape: list[int]) -> Tensor:
    """A matrix of the size that models start with; ones for a norm."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


def write_random(path: Path, config: Mapping[str, Any]) -> None:
    """Write a safetensors file tensor by tensor, where the library's `save_file` wants all in memory.

    The format: the header's length (8 bytes, little-endian), the header in JSON, the data end to end.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes(config).items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data is to be aligned
    with path.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for shape in shapes(config).values():
            stream.write(memoryview(random_weight(shape).view(torch.int16).numpy()).cast("B"))


def make_random(model: str, target: Path) -> None:
    """Write a random model, without a tokenizer."""
    torch.manual_seed(0)
    target.mkdir(parents=True, exist_ok=True)
    write_random(target / "model.safetensors", RANDOM[model])
    # last: without it, what a killed run leaves is no model
    (target / "config.json").write_text(json.dumps(RANDOM[model], indent=2) + "\n")


def make(model: str, target: Path, source: str | None = None) -> None:
    """Write a model; `source` is the checkpoint that gives the tokenizer, and A's weights."""
    checkpoint = open_checkpoint(resolve(source))
    if model == "A":
        write_folder(checkpoint, target, dtype=torch.bfloat16)
        return
    target.mkdir(parents=True)
    checkpoint.write_tokenizer(target)
    make_random(model, target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a model to measure, as a Hugging Face folder in bf16."
    )
    parser.add_argument("model", choices=["A", *RANDOM])
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument(
        "--source", help="where the tokenizer, and A, come from; by default the default model"
    )
    args = parser.parse_args()
    if args.target.exists():
        parser.error(f"{args.target} exists; name a new folder, or remove it")
    make(args.model, args.target, args.source)


if __name__ == "__main__":
    main()

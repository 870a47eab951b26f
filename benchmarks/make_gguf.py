"""Writes a llama model of make_model.py as the GGUF file that llama.cpp runs: the same weights, or quantized.

    python benchmarks/make_gguf.py /tmp/A /tmp/A.gguf [--type Q8_0]

Q8_0 and Q4_0 are the blocks of 32 that llama.cpp measures itself by; norms stay float32, as it wants them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType as GGMLType
from torch import Tensor

from mygpt.checkpoint.open import open_checkpoint

NAMES = {  # of a layer, Hugging Face's to llama.cpp's
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
HEADS = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}


def translate(name: str, tensor: Tensor, config: dict[str, Any]) -> tuple[str, Tensor]:
    """llama.cpp rotates neighbouring dimensions where Hugging Face turns i with i + D / 2: rows move accordingly."""
    module = name.removesuffix(".weight")
    if module in ENDS:
        return f"{ENDS[module]}.weight", tensor
    _, _, layer, part = module.split(".", 3)
    if part in HEADS:
        heads = config[HEADS[part]]
        halves = tensor.view(heads, 2, -1, tensor.shape[-1])
        tensor = halves.transpose(1, 2).reshape(tensor.shape)
    return f"blk.{layer}.{NAMES[part]}.weight", tensor


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor, kind: GGMLType) -> None:
    if tensor.ndim == 1:
        writer.add_tensor(name, tensor.float().numpy())
    elif kind == GGMLType.BF16:
        data = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, data, raw_dtype=kind)
    else:
        writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), kind), raw_dtype=kind)


def add_config(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    """SmolLM2's byte-level BPE; llama.cpp loads no model without one."""
    content = json.loads((folder / "tokenizer.json").read_text())
    tokens = {number: token for token, number in content["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in content["added_tokens"]}
    tokens |= special
    types = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tokens.get(i, f"<unused {i}>") for i in range(vocab_size)])
    writer.add_token_types([types.CONTROL if i in special else types.NORMAL for i in range(vocab_size)])
    merges = content["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def make(folder: Path, target: Path, kind: GGMLType) -> None:
    checkpoint = open_checkpoint(folder)
    config = dict(checkpoint.config)
    if config["model_type"] != "llama":
        raise SystemExit(f"{folder} is a {config['model_type']}, not a llama")
    writer = gguf.GGUFWriter(target, "llama", use_temp_file=False)
    add_config(writer, config)
    add_tokenizer(writer, folder, config["vocab_size"])
    writer.add_file_type(int(gguf.LlamaFileType[f"MOSTLY_{kind.name}"]))
    for name, tensor in checkpoint.tensors():
        add_tensor(writer, *translate(name, tensor, config), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a llama model as a GGUF file, for llama.cpp.")
    parser.add_argument("folder", type=Path, help="of make_model.py")
    parser.add_argument("target", type=Path, help="the file to make")
    parser.add_argument("--type", choices=["BF16", "Q8_0", "Q4_0"], default="BF16")
    args = parser.parse_args()
    make(args.folder, args.target, GGMLType[args.type])


if __name__ == "__main__":
    main()

"""litgpt 0.5.13 on the weights of a Hugging Face folder, for `decode.py --peer_python` to compare with.

Run by the python of an environment that holds litgpt, and not mygpt. It says when the model is loaded, then
runs a prompt for each line on standard input: JSON lines both ways. Model, cache and loop are set up as
`litgpt generate` does it, greedy and without an end token. Llama's shape only, one sequence at a time.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import lightning as L
import torch
from litgpt.config import Config
from litgpt.generate.base import generate_fn
from litgpt.model import GPT
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from safetensors.torch import load_file


def read_config(folder: Path) -> Config:
    """Llama's `config.json` as litgpt says it."""
    hf = json.loads((folder / "config.json").read_text())
    if hf["model_type"] != "llama" or hf.get("rope_scaling"):
        sys.exit(f"the comparison with litgpt takes llama models without rope scaling, not {folder}")
    return Config(
        block_size=hf["max_position_embeddings"],
        vocab_size=hf["vocab_size"],
        padded_vocab_size=hf["vocab_size"],
        n_layer=hf["num_hidden_layers"],
        n_embd=hf["hidden_size"],
        n_head=hf["num_attention_heads"],
        n_query_groups=hf["num_key_value_heads"],
        head_size=hf.get("head_dim"),
        intermediate_size=hf["intermediate_size"],
        norm_class_name="RMSNorm",
        norm_eps=hf["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        rope_base=int(hf["rope_theta"]),
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )


def load(folder: Path, fabric: L.Fabric, slots: int) -> Any:
    """The model with a cache of `slots` tokens, in the order of litgpt's `main`."""
    config = read_config(folder)
    with fabric.init_module(empty_init=True):
        model = GPT(config)
    with fabric.init_tensor():
        model.max_seq_length = slots
        model.set_kv_cache(batch_size=1)
    model.eval()
    model = fabric.setup_module(model)
    state: dict[str, torch.Tensor] = {}
    weights = {
        name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()
    }
    copy_weights_hf_llama(config, {}, state, weights)
    model.load_state_dict(state)
    return model


def run(model: Any, prompt: torch.Tensor, new_tokens: int) -> dict[str, Any]:
    """One generation: time to the first token, tokens per second after it, the ids."""
    ids: list[int] = []
    start = time.perf_counter()
    steps = generate_fn(
        model, prompt, len(prompt) + new_tokens, temperature=0.0, include_prompt=False, include_eos=False
    )
    for token in steps:
        ids.append(int(token))
        if len(ids) == 1:
            first = time.perf_counter()
    end = time.perf_counter()
    for block in model.transformer.h:
        block.attn.kv_cache.reset_parameters()
    return {"ttft_s": first - start, "tokens_per_s": (len(ids) - 1) / (end - first), "ids": ids}


def answer(stream: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=stream, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("precision")
    parser.add_argument("accelerator")
    parser.add_argument("slots", type=int)
    parser.add_argument("threads", type=int)
    args = parser.parse_args()
    stream, sys.stdout = sys.stdout, sys.stderr  # whatever litgpt prints is no answer
    torch.set_num_threads(args.threads)
    fabric = L.Fabric(accelerator=args.accelerator, devices=1, precision=args.precision)
    model = load(args.folder, fabric, args.slots)
    answer(stream, {package: version(package) for package in ("litgpt", "torch")})
    for line in sys.stdin:
        order = json.loads(line)
        prompt = torch.tensor(order["prompt"], device=fabric.device)
        answer(stream, run(model, prompt, order["new_tokens"]))


if __name__ == "__main__":
    main()

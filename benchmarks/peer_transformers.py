"""transformers' own `generate` on a folder, for `peers.py`: JSON lines both ways, as `peer_llama_cpp.py`."""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.inference_mode()
def run(model: Any, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """Greedy, without an end token."""
    ids, clock = torch.tensor([prompt]), Clock()
    options = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }
    start = time.perf_counter()
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), streamer=clock, **options)
    first, end = clock.times[1], clock.times[-1]  # the prompt is put before them
    return {
        "ttft_s": first - start,
        "tokens_per_s": (new_tokens - 1) / (end - first),
        "ids": whole[0, len(prompt) :].tolist(),
    }


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    stream, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    versions = {package: version(package) for package in ("transformers", "torch")}
    print(json.dumps(versions), file=stream, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(run(model, order["prompts"][0], order["new_tokens"])), file=stream, flush=True)


if __name__ == "__main__":
    main()

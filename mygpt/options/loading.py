"""How a model is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mygpt.errors import InputError
from mygpt.options.checks import check_choice, require

# Other names that users know for a precision.
PRECISION_ALIASES = {
    **dict.fromkeys(("fp32", "float32", "32"), "32-true"),
    **dict.fromkeys(("fp16", "float16", "half", "16"), "16-true"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-true"),
}


@dataclass(frozen=True)
class LoadOptions:
    """How the model is loaded.

    Args:
        precision: The type of the model's numbers, also written fp32, fp16 or bf16. By default the one that the device
            computes well with: on a CPU 32-true, except where it multiplies bfloat16 in hardware and the model takes
            1 GB or more in 32-true.
        quantize: Store the linear layers in 4 bits (nf4, fp4; -dq packs them tighter) or 8 (int8) with bitsandbytes,
            while they are loaded. By default they stay as they are.
        accelerator: The kind of device. auto takes the GPU if there is one; gpu is cuda or mps.
        devices: How many devices to use, auto for all, or a list such as cuda:0,cuda:1,cpu; on a CPU, the number
            of processes or parts.
        num_nodes: How many machines to use, each with the same number of devices; start with torchrun or SLURM.
        strategy: How several devices share the model: sequential (layers in turn), tensor (each a slice of every
            matrix), fsdp, or auto: tensor if their number divides the model, else sequential. By default the
            command's own.
        cpu_offload: With fsdp, keep the weights in the machine's memory until a layer runs.
        compile: Compile the model with torch.compile. It starts more slowly and runs faster on GPUs; on CPUs with
            mygpt's own kernels it runs more slowly.
        draft: A smaller model with the same vocabulary, on the first device. It guesses tokens, and the model checks
            several at once; in float32 greedy answers stay the same, and so does the distribution of samples.
        prompt_style: How a conversation is written: template (the repository's own), raw (not at all) or a known style.
            By default what the repository's files show.
        access_token: Hugging Face token for gated repositories; by default $HF_TOKEN or the saved login.
        revision: Branch, tag or commit of the repository; by default its main branch.
        context_length: Tokens of prompt and answer together, or of a conversation, at most; by default as many as
            the model was made for. Less bounds the memory of the KV cache.
    """

    precision: str | None = None
    quantize: str | None = None
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str | None = None
    cpu_offload: bool = False
    compile: bool = False
    draft: str | None = None
    prompt_style: str | None = None
    access_token: str | None = field(default=None, repr=False)
    revision: str | None = None
    context_length: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", PRECISION_ALIASES.get(str(self.precision), self.precision))
        for name in ("precision", "quantize", "accelerator", "strategy", "prompt_style"):
            check_choice(name, getattr(self, name))
        count = str(self.devices)
        if count != "auto" and not re.fullmatch(r"[1-9]\d{0,2}|[a-z]+(:\d+)?(,[a-z]+(:\d+)?)*", count):
            raise InputError(
                f"--devices must be a number from 1 to 999, auto, or a list such as cuda:0,cpu; it is {count!r}"
            )
        require(self, "num_nodes", 1 <= self.num_nodes <= 1000, "between 1 and 1000")
        require(self, "context_length", self.context_length is None or self.context_length >= 2, "2 or above")
        if self.cpu_offload and self.strategy != "fsdp":
            raise InputError("--cpu_offload goes with --strategy fsdp only; add that, or leave it out")
        if self.compile and self.strategy == "fsdp":
            raise InputError(
                "--compile does not work with --strategy fsdp, whose weights come and go; leave one out"
            )

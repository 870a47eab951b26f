"""`mygpt convert SOURCE TARGET`: write a folder of safetensors, cast or quantized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mygpt.checkpoint.progress import progress_bar
from mygpt.commands._parser import make_parser, parse
from mygpt.errors import InputError
from mygpt.quantize.schemes import quantizers

DTYPES = ("float32", "float16", "bfloat16")


def run(arguments: Sequence[str]) -> None:
    """Parse the options and convert."""
    parser = make_parser("convert", "Write a model as a folder of safetensors.", checkpoint=False)
    parser.add_function_arguments(convert, as_positional=True)
    parsed = parse(parser, arguments)
    convert(**{key: value for key, value in vars(parsed).items() if key != "config"})


def convert(
    source: str,
    target: str,
    dtype: str | None = None,
    quantize: str | None = None,
    access_token: str | None = None,
    revision: str | None = None,
) -> None:
    """Write a model as a Hugging Face folder of safetensors, and print the folder.

    The folder appears when it is complete; one that exists is never written to.

    Args:
        source: A local folder, a .gguf file or a Hub repository.
        target: The folder to make.
        dtype: float32, float16 or bfloat16; by default each weight stays as it is, but with quantize those that
            are not quantized become bfloat16.
        quantize: bnb.nf4, bnb.nf4-dq, bnb.fp4, bnb.fp4-dq or bnb.int8: linear layers are stored in bitsandbytes'
            4 or 8 bits, as transformers reads them too.
        access_token: Hugging Face token for gated repositories; by default $HF_TOKEN or the saved login.
        revision: Branch, tag or commit of the repository.
    """
    for name, value, known in (("dtype", dtype, DTYPES), ("quantize", quantize, quantizers())):
        if value is not None and value not in known:
            raise InputError(f"--{name} must be one of {', '.join(known)}, it is {value!r}")
    folder = Path(target).expanduser()
    if folder.exists():  # before anything is downloaded
        raise InputError(f"{folder} exists; name a new folder, or remove it")

    import torch

    from mygpt.checkpoint.convert import convert as convert_checkpoint
    from mygpt.checkpoint.convert import stored_bytes
    from mygpt.checkpoint.open import open_checkpoint
    from mygpt.hub.resolve import resolve

    checkpoint = open_checkpoint(resolve(source, access_token=access_token, revision=revision))
    with progress_bar(f"writing {folder.name}", stored_bytes(checkpoint)) as advance:
        convert_checkpoint(
            checkpoint,
            folder,
            dtype=getattr(torch, dtype) if dtype else None,
            scheme=quantizers()[quantize] if quantize else None,
            report=lambda name, nbytes: advance(nbytes),
        )
    print(folder)

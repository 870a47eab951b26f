"""`mygpt convert SOURCE TARGET`: write a folder of safetensors, cast or quantized."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mygpt.checkpoint.new_folder import check_new
from mygpt.checkpoint.progress import progress_bar
from mygpt.commands._parser import Parser, make_parser, parse
from mygpt.commands._torch import import_torch
from mygpt.errors import InputError
from mygpt.messages import for_output
from mygpt.options import DTYPE_NAMES, PRECISION_ALIASES, check_choice
from mygpt.quantize.schemes import quantizers

EXAMPLES = (
    "mygpt convert model.Q4_0.gguf ./my-model --dtype bfloat16",
    "mygpt convert mistral-7b ./mistral-nf4 --quantize bnb.nf4-dq",
)


def build_parser() -> Parser:
    """The options of the command."""
    description = "Write a model as a folder of safetensors: cast, quantized, or out of a GGUF file."
    parser = make_parser("convert", description, EXAMPLES, checkpoint=False)
    parser.add_function_arguments(convert, as_positional=True)
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options and convert."""
    parsed = parse(build_parser(), arguments)
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
        source: A local folder, a .gguf file, a Hub repository or a short name.
        target: The folder to make.
        dtype: The type of the weights, also written fp32, fp16 or bf16. By default each stays as it is, but with
            --quantize those that are not quantized become bfloat16.
        quantize: Store the linear layers in bitsandbytes' 4 or 8 bits, as transformers reads them too. By default
            they stay as they are.
        access_token: Hugging Face token for gated repositories; by default $HF_TOKEN or the saved login.
        revision: Branch, tag or commit of the repository; by default its main branch.
    """
    precision = PRECISION_ALIASES.get(str(dtype), str(dtype))
    dtype = DTYPE_NAMES.get(precision, dtype)
    check_choice("dtype", dtype)
    check_choice("quantize", quantize)
    try:
        folder = Path(target).expanduser()
    except RuntimeError as error:  # an unknown ~user
        raise InputError(f"no such folder: {target!r}") from error
    check_new(folder)  # before anything is downloaded

    import_torch()
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
    print(for_output(str(folder), sys.stdout))

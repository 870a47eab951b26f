"""The modes of `--quantize`, and how a `config.json` names them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mygpt.errors import InputError


@dataclass(frozen=True)
class Mode:
    """One way to quantize a matrix.

    4 bits (arXiv:2305.14314): blocks of 64 weights of a row, each weight one of 16 levels (`nf4`: quantiles of the
    normal distribution, `fp4`: floats of 4 bits) times the block's largest magnitude. With `nested`, these
    magnitudes are in 8 bits themselves, in blocks of 256. 8 bits (arXiv:2208.07339): each row has one scale.
    """

    name: str
    quant_type: str  # nf4, fp4 or int8
    nested: bool = False


MODES = {
    mode.name: mode
    for mode in (
        Mode("bnb.nf4", "nf4"),
        Mode("bnb.nf4-dq", "nf4", nested=True),
        Mode("bnb.fp4", "fp4"),
        Mode("bnb.fp4-dq", "fp4", nested=True),
        Mode("bnb.int8", "int8"),
    )
}


def stored_mode(config: Mapping[str, Any], source: str) -> Mode | None:
    """How a `config.json` says that its weights are stored; None: not quantized.

    Raises:
        InputError: they are in a format that is not bitsandbytes'.
    """
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    content = quantization if isinstance(quantization, dict) else {}
    method = content.get("quant_method", "bitsandbytes" if "load_in_4bit" in content else quantization)
    if method != "bitsandbytes":
        raise InputError(
            f"{source}: weights quantized with {method!r} are not supported, only with bitsandbytes; use an "
            "unquantized one"
        )
    kind = content.get("bnb_4bit_quant_type", "fp4") if content.get("load_in_4bit") else "int8"
    suffix = "-dq" if kind != "int8" and content.get("bnb_4bit_use_double_quant") else ""
    name = f"bnb.{kind}{suffix}"
    if name not in MODES:
        raise InputError(f"{source}: the bitsandbytes type {kind!r} is not known; use an unquantized model")
    return MODES[name]


def quantization_config(mode: Mode, dtype: str, skipped: list[str]) -> dict[str, Any]:
    """What transformers reads of a folder stored in `mode`; `skipped` are modules left in `dtype`.

    Source: `BitsAndBytesConfig.to_dict` of transformers.
    """
    skip = {"llm_int8_skip_modules": skipped or None}
    if mode.quant_type == "int8":
        content = {"load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0}
        return {"quant_method": "bitsandbytes", **content, **skip}
    return {
        "quant_method": "bitsandbytes",
        "load_in_8bit": False,
        "load_in_4bit": True,
        "bnb_4bit_quant_type": mode.quant_type,
        "bnb_4bit_use_double_quant": mode.nested,
        "bnb_4bit_compute_dtype": dtype,
        "bnb_4bit_quant_storage": "uint8",
        **skip,
    }

"""GGML's types of blocks, as GGUF files have them: dequantized as they are read.

Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/quants.py, whose code does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mygpt.quantize.schemes import Scheme, register

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_CHUNK = 1 << 17  # elements dequantized at a time: fast in cache, measured from 2^14 to 2^20


@register
class GGUF(Scheme):
    """The types that llama.cpp's quantized files are made of. Each tensor of a file has a type of its own."""

    name = "gguf"
    ggml_types = frozenset(
        {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"},
    )

    def decode(self, blocks: np.ndarray[Any, Any], ggml_type: str, shape: tuple[int, ...]) -> Tensor:
        """In float32. Chunk by chunk, so that numpy's intermediates stay in cache. (Two threads were no faster.)"""
        import numpy as np
        import torch
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        out = torch.empty(shape)
        values = out.numpy().reshape(-1)
        chunk_bytes = _CHUNK * len(blocks) // values.size
        for number, start in enumerate(range(0, len(blocks), chunk_bytes)):
            with np.errstate(all="ignore"):  # of a corrupt block's infinities; the logits tell
                chunk = dequantize(
                    blocks[None, start : start + chunk_bytes], GGMLQuantizationType[ggml_type]
                )[0]
            values[number * _CHUNK :][: chunk.size] = chunk
        return out

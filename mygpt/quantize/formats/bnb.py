"""bitsandbytes: 4 and 8 bits, made by `--quantize` and read from repositories.

What needs torch is in `bnb_library.py`, `bnb_matrices.py`, `bnb_format.py` and `matmul.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mygpt.errors import InputError
from mygpt.quantize.schemes import Quantizer, TensorFile, register

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mygpt.quantize.bnb_matrices import BnbMatrix
    from mygpt.quantize.matmul import Product
    from mygpt.quantize.packed import PackedMatrix


@register
@dataclass(frozen=True)
class BitsAndBytes(Quantizer):
    """One of bitsandbytes' ways to quantize a matrix.

    4 bits (arXiv:2305.14314): blocks of 64 weights of a row, each weight one of 16 levels (`nf4`: quantiles of the
    normal distribution, `fp4`: floats of 4 bits) times the block's largest magnitude. With `nested`, these
    magnitudes are in 8 bits themselves, in blocks of 256. 8 bits (arXiv:2208.07339): each row has one scale.
    """

    name: str
    quant_type: str  # nf4, fp4 or int8
    nested: bool = False

    methods: ClassVar[tuple[str, ...]] = ("bitsandbytes",)

    @classmethod
    def claims(cls, quantization: Mapping[str, Any]) -> bool:
        """By the method, or by a key of it: old files do not name the method."""
        implied = "bitsandbytes" if "load_in_4bit" in quantization else None
        return quantization.get("quant_method", implied) in cls.methods

    @classmethod
    def read(cls, quantization: Mapping[str, Any], source: str) -> BitsAndBytes:
        """Source: `BitsAndBytesConfig` of transformers."""
        four_bits = quantization.get("load_in_4bit")
        kind = quantization.get("bnb_4bit_quant_type", "fp4") if four_bits else "int8"
        suffix = "-dq" if four_bits and quantization.get("bnb_4bit_use_double_quant") else ""
        name = f"bnb.{kind}{suffix}"
        if name not in MODES:
            raise InputError(
                f"{source}: the bitsandbytes type {kind!r} is not known; use an unquantized model"
            )
        return MODES[name]

    @classmethod
    def offered(cls) -> tuple[BitsAndBytes, ...]:
        """All of them."""
        return tuple(MODES.values())

    def packed_names(self, file: TensorFile) -> Collection[str]:
        """Those that have scales beside them."""
        from mygpt.quantize.bnb_format import stored_matrices

        return stored_matrices(file.shapes()).keys()

    def tensors(self, file: TensorFile, device: torch.device) -> Iterator[tuple[str, Tensor | PackedMatrix]]:
        """Packed, on the CPU."""
        from mygpt.quantize.bnb_format import assemble, stored_matrices

        return assemble(file.tensors(), stored_matrices(file.shapes()), str(file.path))

    def layer_bytes(self, rows: Sequence[int], columns: int, dtype: torch.dtype, device_type: str) -> int:
        """As the products of `matmul.py` hold them."""
        from mygpt.quantize.bnb_matrices import BLOCK_SIZE, NESTED_BLOCK_SIZE
        from mygpt.quantize.matmul import suits_fast_kernel

        n = sum(rows)
        if self.quant_type == "int8":
            return n * columns + n * (4 if device_type == "cuda" else dtype.itemsize)
        scale = 2 if device_type == "cpu" and suits_fast_kernel(n, columns) else 4
        total = 0
        for part in rows:
            blocks = -(-part * columns // BLOCK_SIZE)
            total += -(-part * columns // 2)
            if device_type == "cuda" and self.nested:
                total += blocks + 4 * -(-blocks // NESTED_BLOCK_SIZE) + 4  # the offset
            else:
                total += blocks * scale
        return total

    def products(self, parts: Sequence[Tensor | PackedMatrix], dtype: torch.dtype) -> list[Product]:
        """By the fastest kernel of the device."""
        from mygpt.quantize.matmul import make_products

        return make_products(parts, dtype)  # type: ignore[arg-type]  # those that this scheme makes

    def quantize(self, weight: Tensor) -> BnbMatrix:
        """Bit for bit as bitsandbytes."""
        from mygpt.quantize.bnb_matrices import quantize

        return quantize(weight, self.quant_type, nested=self.nested)

    def write(self, name: str, matrix: BnbMatrix, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """In bitsandbytes' serialization."""
        from mygpt.quantize.bnb_format import write

        return write(name, matrix, dtype)

    def quantization_config(self, dtype: str, skipped: list[str]) -> dict[str, Any]:
        """Source: `BitsAndBytesConfig.to_dict` of transformers."""
        skip = {"llm_int8_skip_modules": skipped or None}
        if self.quant_type == "int8":
            content = {"load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0}
            return {"quant_method": "bitsandbytes", **content, **skip}
        return {
            "quant_method": "bitsandbytes",
            "load_in_8bit": False,
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.quant_type,
            "bnb_4bit_use_double_quant": self.nested,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
            **skip,
        }

    def obstacle(self, shape: torch.Size, *, fused: bool) -> str | None:
        """Parts of a 4-bit matrix begin with a row and with a block."""
        from mygpt.quantize.bnb_matrices import BLOCK_SIZE

        if fused and self.quant_type != "int8" and shape[1] % BLOCK_SIZE:
            return f"of {shape[1]} columns, no multiple of {BLOCK_SIZE}, could not be parted again"
        return None


MODES = {
    mode.name: mode
    for mode in (
        BitsAndBytes("bnb.nf4", "nf4"),
        BitsAndBytes("bnb.nf4-dq", "nf4", nested=True),
        BitsAndBytes("bnb.fp4", "fp4"),
        BitsAndBytes("bnb.fp4-dq", "fp4", nested=True),
        BitsAndBytes("bnb.int8", "int8"),
    )
}

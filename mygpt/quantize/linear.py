"""The layers that hold quantized matrices, in place of a model's `Linear` and `FusedLinear`.

They call bitsandbytes' operators themselves. Fabric's `BitsandbytesPrecision`, whose mode names these are, does the
same on CUDA, but refuses a CPU and quantizes layers whole; and its import takes longer than loading a small model.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.linear import FusedLinear, Linear
from mygpt.quantize.matmul import FastFourBitProduct, Product, make_products
from mygpt.quantize.modes import Mode
from mygpt.quantize.tensors import BLOCK_SIZE, NESTED_BLOCK_SIZE, FourBit, Quantized, quantize

# Small matrices whose outputs decide much: which experts a token takes, and how much of the shared one.
_DECISIVE = ("router", "scale")
# Matrices that latent attention takes apart by heads.
_TAKEN_APART = ("key_up", "value_up")


class QuantizedLinear(FusedLinear):
    """A linear layer of quantized matrices, which come one by one: one for each slot, or one in all.

    Until the last has come, `weight` is on the meta device and tells the shape; afterwards it is None. The layer
    is of use in inference alone.
    """

    def __init__(self, layer: Linear, mode: Mode, dtype: torch.dtype, *, stored: bool = False) -> None:
        """Matrices that come in floats are quantized in `mode`, unless others are `stored` in it. `dtype` is x's."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.slots = dict(layer.slots) if isinstance(layer, FusedLinear) else {}
        self.weight, self.bias = layer.weight, layer.bias
        self.products = nn.ModuleList()
        self.mode, self.dtype, self.stored = mode, dtype, stored
        self._parts: dict[int, Tensor | Quantized] = {}

    def put(self, rows: slice | None, part: Tensor | Quantized) -> None:
        """Take the matrix of some rows (None: of all), and quantize it where it comes in floats."""
        if isinstance(part, Tensor) and not self.stored:
            part = quantize(part, self.mode)
        self._parts[rows.start if rows else 0] = part
        if sum(part.shape[0] for part in self._parts.values()) == self.out_features:
            parts = [self._parts[start] for start in sorted(self._parts)]
            self._parts = {}
            self.products = nn.ModuleList(make_products(parts, self.dtype))
            self.register_parameter("weight", None)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out)."""
        return kernels.multiply(x, self)

    def kernel_matrix(self) -> kernels.Matrix | None:
        """As of `Linear`: of one product, bias and all."""
        products: list[Product] = list(self.products)  # type: ignore[arg-type]
        return products[0].kernel_matrix(self.bias) if len(products) == 1 else None

    def plain(self, x: Tensor) -> Tensor:
        """As of `Linear`: product by product, which may each have a kernel."""
        products: list[Product] = list(self.products)  # type: ignore[arg-type]
        if len(products) == 1:
            y = products[0].multiply(x)
        else:
            y = torch.cat([product.multiply(x) for product in products], dim=-1)
        return y if self.bias is None else y + self.bias

    @property
    def device(self) -> torch.device:
        """Where the matrices are, or will be: the meta device before they have come."""
        return next(self.buffers()).device if len(self.products) else self.weight.device

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices that have come, without the bias."""
        return sum(product.nbytes for product in self.products)  # type: ignore[misc]


def quantizable(model: nn.Module) -> dict[str, Linear]:
    """The linear layers of the blocks that `--quantize` is about, by their paths.

    Embeddings, the head, norms, the routers of experts and what makes heads of latents are not.
    """
    return {
        path: module
        for path, module in model.named_modules()
        if path.startswith("layers.")
        and type(module) in (Linear, FusedLinear)
        and path.split(".")[-1] not in (*_DECISIVE, *_TAKEN_APART)
    }


def quantize_linears(model: nn.Module, mode: Mode, dtype: torch.dtype) -> None:
    """Put quantized layers, still empty, in the place of a meta model's linear ones; `dtype` is that of x."""
    for path, layer in quantizable(model).items():
        model.set_submodule(path, QuantizedLinear(layer, mode, dtype))


def expect_stored(model: nn.Module, stored: AbstractSet[str], mode: Mode, dtype: torch.dtype) -> None:
    """The same for those linear layers of which a matrix is stored quantized; `stored` are our names of these."""
    for path, layer in list(model.named_modules()):
        apart = path.split(".")[-1] in _TAKEN_APART
        if isinstance(layer, Linear) and not apart and not stored.isdisjoint(weight_names(path, layer)):
            model.set_submodule(path, QuantizedLinear(layer, mode, dtype, stored=True))


def weight_names(path: str, layer: Linear) -> list[str]:
    """The names of a layer's matrices; those of a fused layer are siblings of the layer."""
    slots = layer.slots if isinstance(layer, FusedLinear) else {}
    parent = path.rpartition(".")[0]
    return [f"{parent}.{slot}.weight" for slot in slots] or [f"{path}.weight"]


@dataclass(frozen=True)
class Summary:
    """What was quantized."""

    mode: str
    n_layers: int
    nbytes: int  # of their matrices

    def __str__(self) -> str:
        return f"{self.mode}: {self.n_layers} linears, {self.nbytes / 1e9:.2f} GB"


def summarize(model: nn.Module) -> Summary | None:
    """Of a loaded model; None where nothing of it is quantized."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    if not layers:
        return None
    return Summary(layers[0].mode.name, len(layers), sum(layer.weight_bytes for layer in layers))


def quantized_bytes(layer: Linear, mode: Mode, dtype: torch.dtype, device_type: str) -> int:
    """Bytes that a layer's matrices will take, exactly; works on the meta device. `dtype` is that of x."""
    n, k = layer.out_features, layer.in_features
    slots = list(layer.slots.values()) if isinstance(layer, FusedLinear) else []
    if mode.quant_type == "int8":
        return n * k + n * (4 if device_type == "cuda" else dtype.itemsize)
    total = 0
    for rows in slots or [n]:
        blocks = -(-rows * k // BLOCK_SIZE)
        total += -(-rows * k // 2)
        if device_type == "cuda" and mode.nested:
            total += blocks + 4 * -(-blocks // NESTED_BLOCK_SIZE) + 4  # the offset
        else:
            total += blocks * (2 if device_type == "cpu" and _suits_fast_kernel(n, k) else 4)
    return total


def _suits_fast_kernel(n: int, k: int) -> bool:
    nothing = torch.empty(0, device="meta")
    return FastFourBitProduct.suits(FourBit(torch.Size((n, k)), "nf4", nothing, nothing))

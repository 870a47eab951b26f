"""The layers that hold packed matrices, of any scheme, in place of a model's `Linear` and `FusedLinear`.

Fabric's `BitsandbytesPrecision`, whose names of modes `--quantize` has, does the same for bitsandbytes on CUDA, but
refuses a CPU and quantizes layers whole; and its import takes longer than loading a small model.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.linear import FusedLinear, Linear
from mygpt.quantize.matmul import Product
from mygpt.quantize.packed import PackedMatrix
from mygpt.quantize.schemes import PackedScheme, Quantizer

# Small matrices whose outputs decide much: which experts a token takes, and how much of the shared one.
_DECISIVE = ("router", "scale")
# Matrices that latent attention takes apart by heads.
_TAKEN_APART = ("key_up", "value_up")


class QuantizedLinear(FusedLinear):
    """A linear layer of quantized matrices, which come one by one: one for each part, or one in all.

    Until the last has come, `weight` is on the meta device and tells the shape; afterwards it is None. The layer
    is of use in inference alone.
    """

    def __init__(
        self, layer: Linear, scheme: PackedScheme, dtype: torch.dtype, *, stored: bool = False
    ) -> None:
        """Matrices that come in floats are quantized, unless others are `stored` in the scheme. `dtype` is x's."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.parts = dict(layer.parts) if isinstance(layer, FusedLinear) else {}
        self.weight, self.bias = layer.weight, layer.bias
        self.products = nn.ModuleList()
        self.scheme, self.dtype, self.stored = scheme, dtype, stored
        self._parts: dict[int, Tensor | PackedMatrix] = {}

    def put(self, rows: slice | None, part: Tensor | PackedMatrix) -> None:
        """Take the matrix of some rows (None: of all), and quantize it where it comes in floats."""
        if isinstance(part, Tensor) and not self.stored:
            assert isinstance(self.scheme, Quantizer)
            part = self.scheme.quantize(part)
        self._parts[rows.start if rows else 0] = part
        if sum(part.shape[0] for part in self._parts.values()) == self.out_features:
            parts = [self._parts[start] for start in sorted(self._parts)]
            self._parts = {}
            self.products = nn.ModuleList(self.scheme.products(parts, self.dtype))
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
        products: list[Product] = list(self.products)  # type: ignore[arg-type]
        return products[0].device if products else self.weight.device

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


def quantize_linears(model: nn.Module, scheme: PackedScheme, dtype: torch.dtype) -> None:
    """Put quantized layers, still empty, in the place of a meta model's linear ones; `dtype` is that of x."""
    for path, layer in quantizable(model).items():
        model.set_submodule(path, QuantizedLinear(layer, scheme, dtype))


def expect_stored(
    model: nn.Module, stored: AbstractSet[str], scheme: PackedScheme, dtype: torch.dtype
) -> None:
    """The same for those linear layers of which a matrix is stored quantized; `stored` are our names of these."""
    for path, layer in list(model.named_modules()):
        apart = path.split(".")[-1] in _TAKEN_APART
        if isinstance(layer, Linear) and not apart and not stored.isdisjoint(weight_names(path, layer)):
            model.set_submodule(path, QuantizedLinear(layer, scheme, dtype, stored=True))


def weight_names(path: str, layer: Linear) -> list[str]:
    """The names of a layer's matrices; those of a fused layer are siblings of the layer."""
    parts = layer.parts if isinstance(layer, FusedLinear) else {}
    parent = path.rpartition(".")[0]
    return [f"{parent}.{part}.weight" for part in parts] or [f"{path}.weight"]


@dataclass(frozen=True)
class Summary:
    """What was quantized."""

    scheme: str
    n_layers: int
    nbytes: int  # of their matrices

    def __str__(self) -> str:
        return f"{self.scheme}: {self.n_layers} linears, {self.nbytes / 1e9:.2f} GB"


def summarize(model: nn.Module) -> Summary | None:
    """Of a loaded model; None where nothing of it is quantized."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    if not layers:
        return None
    return Summary(layers[0].scheme.name, len(layers), sum(layer.weight_bytes for layer in layers))


def quantized_bytes(layer: Linear, scheme: PackedScheme, dtype: torch.dtype, device_type: str) -> int:
    """Bytes that a layer's matrices will take, exactly; works on the meta device. `dtype` is that of x."""
    rows = list(layer.parts.values()) if isinstance(layer, FusedLinear) else []
    return scheme.layer_bytes(rows or [layer.out_features], layer.in_features, dtype, device_type)

"""How weights are stored: a registry of schemes, asked by all that read, plan, make or write such weights.

A scheme is one module in `mygpt/quantize/formats/`; nothing else names it. Three kinds, each able to do more:

- `Scheme`: read from a file and dequantized while it is loaded.
- `PackedScheme`: its matrices stay packed, in the layers of `mygpt.quantize.linear`.
- `Quantizer`: offered by `--quantize`, and written by `mygpt convert`.

Imports no torch, for families and options ask it too: schemes import it in the methods that need it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from mygpt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from mygpt.quantize.matmul import Product
    from mygpt.quantize.packed import PackedMatrix


class TensorFile(Protocol):
    """What a scheme reads: a checkpoint, whose tensors are as they are stored."""

    path: Path

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every (name, tensor)."""

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The shape and type of each, without reading data."""


class Scheme(ABC):
    """One way to store matrices; an instance is one variant of it.

    Attributes:
        name: what options, plans and statistics call the variant.
        methods: the `quant_method`s of `config.json` that are this scheme's.
        model_types: the families whose weights' names it knows; none: any.
        ggml_types: the types of a GGUF file's tensors that it decodes.
    """

    name: str
    methods: ClassVar[tuple[str, ...]] = ()
    model_types: ClassVar[tuple[str, ...]] = ()
    ggml_types: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def claims(cls, quantization: Mapping[str, Any]) -> bool:
        """Whether the `quantization_config` of a `config.json` is this scheme's."""
        return quantization.get("quant_method") in cls.methods

    @classmethod
    def read(cls, quantization: Mapping[str, Any], source: str) -> Scheme:
        """The variant that a `quantization_config` describes; `source` names the file in errors.

        Raises:
            InputError: it is one that is not supported.
        """
        return cls()

    @classmethod
    def offered(cls) -> tuple[Quantizer, ...]:
        """The variants that `--quantize` offers."""
        return ()

    def tensors(self, file: TensorFile, device: torch.device) -> Iterator[tuple[str, Tensor | PackedMatrix]]:
        """The file's stream with its matrices put together: packed, or dequantized on `device`.

        Raises:
            InputError: parts of a matrix are missing, or do not fit each other.
        """
        return file.tensors()

    def decode(self, blocks: np.ndarray[Any, Any], ggml_type: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of a GGUF file, of one of `ggml_types`, from its bytes (flat, uint8)."""
        raise NotImplementedError(f"{self.name} lists {ggml_type} and does not decode it")


class PackedScheme(Scheme):
    """A scheme whose matrices stay packed in the model."""

    @abstractmethod
    def packed_names(self, file: TensorFile) -> Collection[str]:
        """The file's names of the matrices that `tensors` yields packed."""

    @abstractmethod
    def layer_bytes(self, rows: Sequence[int], columns: int, dtype: torch.dtype, device_type: str) -> int:
        """Bytes that a layer's matrices take, exactly.

        Args:
            rows: outputs of each matrix: one, or those of the parts of a fused layer.
            columns: inputs.
            dtype: that of the layer's input.
            device_type: cpu or cuda.
        """

    def products(self, parts: Sequence[Tensor | PackedMatrix], dtype: torch.dtype) -> list[Product]:
        """What multiplies with the matrices of a layer, in order; several may be stacked. `dtype` is the input's.

        A part in floats is a matrix that is not quantized, beside ones that are.
        """
        from mygpt.quantize.matmul import plain_product

        return [plain_product(part) for part in parts]


class Quantizer(PackedScheme):
    """A scheme that makes its matrices from floats, too."""

    @classmethod
    @abstractmethod
    def offered(cls) -> tuple[Quantizer, ...]:
        """The variants that `--quantize` offers."""

    @abstractmethod
    def quantize(self, weight: Tensor) -> PackedMatrix:
        """A matrix (N, K) of floats, packed on its device."""

    @abstractmethod
    def write(self, name: str, matrix: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """The tensors that a file has for the packed matrix `name` (NAME.weight), which was of `dtype`."""

    @abstractmethod
    def quantization_config(self, dtype: str, skipped: list[str]) -> dict[str, Any]:
        """The `quantization_config` of a folder in it; `skipped` are modules left in `dtype`."""

    def obstacle(self, shape: torch.Size, *, fused: bool) -> str | None:
        """Why a matrix (N, K) that is written could not be read back; None: it can. `fused`: of several parts."""
        return None


_schemes: list[type[Scheme]] = []
_SchemeType = TypeVar("_SchemeType", bound=type[Scheme])


def register(scheme: _SchemeType) -> _SchemeType:
    """A decorator of schemes: from now on they are asked."""
    _schemes.append(scheme)
    return scheme


def registered() -> tuple[type[Scheme], ...]:
    """All schemes. A new module in `formats/` is all that a new one takes."""
    _import_formats()
    return tuple(_schemes)


@functools.cache
def _import_formats() -> None:
    package = import_module("mygpt.quantize.formats")
    for module in sorted(found.name for found in iter_modules(package.__path__)):
        import_module(f"{package.__name__}.{module}")


def stored_scheme(config: Mapping[str, Any], source: str) -> Scheme | None:
    """How a `config.json` says that its weights are stored; None: as floats.

    Raises:
        InputError: in a way that is not supported, or not with this `model_type`.
    """
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    method = quantization
    if isinstance(quantization, dict):
        for scheme in registered():
            if scheme.claims(quantization):
                _check_family(scheme, config.get("model_type"), source)
                return scheme.read(quantization, source)
        method = quantization.get("quant_method", quantization)
    known = sorted(name for scheme in registered() for name in scheme.methods)
    raise InputError(
        f"{source}: weights quantized with {method!r} are not supported, only with {', '.join(known)}; use an "
        "unquantized one"
    )


def _check_family(scheme: type[Scheme], model_type: Any, source: str) -> None:
    if scheme.model_types and model_type not in scheme.model_types:
        raise InputError(
            f"{source}: weights quantized with {scheme.methods[0]!r} are supported of "
            f"{', '.join(scheme.model_types)} only, not of {model_type}; use an unquantized one"
        )


def quantizers() -> dict[str, Quantizer]:
    """What `--quantize` offers, by name."""
    return {variant.name: variant for scheme in registered() for variant in scheme.offered()}


def ggml_scheme(ggml_type: str) -> Scheme | None:
    """What decodes a type of GGUF's tensors; None: nothing."""
    return next((scheme() for scheme in registered() if ggml_type in scheme.ggml_types), None)

"""`--compile`: the blocks of a model through torch.compile, once for each kind of forward pass.

The kinds: a prompt; more of a sequence (a turn or a draft); one token. Each for one sequence and for several. Sizes
within a kind are symbolic, so nothing is compiled anew as sequences grow. Layers of the same kind share their code,
which mygpt's cache folder keeps from run to run. On one GPU the step of one token is also a CUDA graph.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor

from mygpt.errors import InputError, RunError
from mygpt.loading.cuda_graphs import StepGraphs
from mygpt.model.config import Config
from mygpt.model.forward_context import ContextBuilder, ForwardOptions, StaticContextBuilder
from mygpt.model.gpt import GPT
from mygpt.model.kv_cache import GROWTH, KVCache, LayerCache
from mygpt.model.moe import MoE
from mygpt.model.rope import RotaryEmbedding
from mygpt.parallel.placement import Placement
from mygpt.parallel.rank_env import is_worker
from mygpt.parallel.sequential import SequentialGPT
from mygpt.paths import cache_folder, code_folders, private_folder
from mygpt.quantize.bnb_library import bitsandbytes
from mygpt.quantize.matmul import EightBitProduct, FastFourBitProduct, FourBitProduct

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Tokens of the prompts that are compiled with: some products have ways of their own for few rows.
MANY, FEW = 80, 5
# Codes of one kind of block: its layers may differ, as by their windows, and so do the kinds of passes.
MAX_CODES = 64


class Compiled:
    """A model that is compiled, as the decode loop sees it. Tokens' logits are those of the model itself."""

    def __init__(self, model: GPT, graphs: StepGraphs | None = None) -> None:
        """Change a loaded model; with `graphs` the steps of one token run by them."""
        self.model = model
        self.graphs = graphs
        self._kinds: set[tuple[bool, ...]] = set()  # those that ran before
        self._marked: WeakSet[LayerCache] = WeakSet()
        _use_static_contexts(model)
        eager: Any = torch.compiler.disable
        for layer in model.layers:
            layer.compile(dynamic=True)
        for module in model.modules():
            if isinstance(module, MoE):  # which experts run depends on what comes
                module.forward = eager(module.forward)  # type: ignore[method-assign]

    @property
    def config(self) -> Config:
        """The model's."""
        return self.model.config

    @property
    def rope(self) -> RotaryEmbedding:
        """The rotary embedding of the layers without a window."""
        return self.model.rope

    def allocate_cache(self, batch_size: int, slots: int, device: torch.device | None = None) -> KVCache:
        """An empty cache, which begins small: tokens attend to all of it. The decode loop lets it grow."""
        return self.model.allocate_cache(batch_size, min(slots, GROWTH), device)

    def __call__(
        self, ids: Tensor, cache: KVCache | None = None, **options: Unpack[ForwardOptions]
    ) -> Tensor:
        """As `GPT.forward`."""
        follows = cache is not None and any(cache.lengths)
        kind = len(ids) > 1, ids.shape[1] > 1, cache is not None, follows, "logits_indices" in options
        with _settings(), progress(show=kind not in self._kinds):
            self._kinds.add(kind)
            if cache is not None:
                self._prepare(cache)
                if (
                    self.graphs is not None
                    and follows
                    and ids.shape[1] == 1
                    and "sequence_lengths" not in options
                ):
                    return self.graphs.step(ids, cache)
            logits: Tensor = self.model(ids, cache, **options)
        return logits

    def _prepare(self, cache: KVCache) -> None:
        """Leave nothing in the cache that a pass would find in one of two states."""
        cache.commit_pending()
        if cache.layers[0] not in self._marked:
            for layer in cache.layers:  # heads and their widths stay, so they need be no symbols
                self._marked.add(layer)
                for tensor in (layer.keys, layer.values):
                    torch._dynamo.mark_static(tensor, [1, 3])

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compile, or find compiled, what one sequence needs.

        Raises:
            InputError: it cannot be compiled.
        """
        with _explained(), progress(show=True):
            for many in (MANY, FEW):
                cache = self.allocate_cache(1, 3 * MANY)
                for new in (many, many, 1):
                    ids = torch.zeros(1, new, dtype=torch.long, device=cache.device)
                    cache.reserve(cache.lengths[0] + new)
                    self(ids, cache, logits_indices=[new - 1])
                    cache.advance([new])


def compile_model(model: GPT, placement: Placement) -> Compiled:
    """Compile a loaded model, after `prepare_compiler`."""
    if any(isinstance(module, FourBitProduct | FastFourBitProduct) for module in model.modules()):
        bitsandbytes()  # compiled code calls its operators
    compiled = Compiled(model, StepGraphs(model) if _takes_graphs(model, placement) else None)
    compiled.warm_up()
    return compiled


def prepare_compiler(placement: Placement) -> None:
    """See that torch.compile can be used, and tell it where to keep its code.

    Raises:
        InputError: it cannot.
        RunError: there is no folder for its code.
    """
    if placement.devices[0].type == "mps":
        raise InputError("--compile does not go with mps; leave it out, or use --accelerator cpu")
    # Before its first import, which would choose a folder.
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_code_folder())
    # Torch (2.13) would take code from that folder that it made for another capability (as of MYGPT_ISA), and give NaN.
    if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
        torch.compiler.config.cache_key_tag = capability
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise InputError(
            "--compile needs a C++ compiler, and there is none (g++, or what $CXX names); install one, or leave it out"
        ) from error


def _code_folder() -> Path:
    """Where compiled code is kept from run to run. It is run, so it is of this user alone.

    Raises:
        RunError: there is no such folder.
    """
    reasons = []
    for folder in code_folders(cache_folder() / "compile", "compile"):
        try:
            return private_folder(folder)
        except OSError as error:
            reasons.append(f"{folder} ({error.strerror or error})")
    raise RunError(
        f"--compile cannot keep its code in {reasons[0]}: set MYGPT_CACHE to a folder of your own, or leave it out"
    )


def _takes_graphs(model: GPT, placement: Placement) -> bool:
    """Whether a step is all of one GPU, and the host is not asked meanwhile (by experts, by outliers in 8 bits)."""
    asks = any(isinstance(module, MoE | EightBitProduct) for module in model.modules())
    return placement.strategy is None and placement.devices[0].type == "cuda" and not asks


def _use_static_contexts(model: GPT) -> None:
    def static(context_builder: ContextBuilder) -> StaticContextBuilder:
        return StaticContextBuilder(model.config).to(context_builder.rope.inv_freq.device)

    model.context_builder = static(model.context_builder)
    if isinstance(model, SequentialGPT):
        model.parts = [replace(part, context_builder=static(part.context_builder)) for part in model.parts]


@contextmanager
def _settings() -> Iterator[None]:
    """Of torch's compiler, while the model runs. It warns when there are more than `MAX_CODES`."""
    import torch._dynamo
    import torch.fx.experimental._config

    dynamo: Any = torch._dynamo.config
    symbols: Any = torch.fx.experimental._config
    # Sizes that happen to be equal are not to be taken for the same one.
    with dynamo.patch(recompile_limit=MAX_CODES), symbols.patch(use_duck_shape=False):
        yield


@contextmanager
def progress(*, show: bool) -> Iterator[None]:
    """A line on a terminal while something is compiled, and how long it took. Within another one, nothing."""
    global _shown
    if not show or _shown or is_worker() or not sys.stderr.isatty():
        yield
        return
    start, _shown = time.perf_counter(), True
    print("compiling the model, which takes longer the first time: ", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        _shown = False
        print(f"{time.perf_counter() - start:.1f} s", file=sys.stderr)


_shown = False


@contextmanager
def _explained() -> Iterator[None]:
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--compile: torch.compile failed ({reason}); leave it out") from error

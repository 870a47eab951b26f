"""The step of one token as a CUDA graph: recorded once for a cache, then launched as a whole.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mygpt.model.forward_context import StaticContextBuilder
from mygpt.model.gpt import GPT
from mygpt.model.kv_cache import KVCache, LayerCache

# Runs a function once, and gives one that does again all that it did on the device, to the same tensors.
Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


def record(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The `Recorder` of the GPU; what the function returns is the same tensor each time."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()  # what is compiled, loaded or allocated at a first time must not be recorded
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class StepGraphs:
    """The graphs of a model's steps, one for each cache: its tensors, and so its size, are a part of the graph."""

    def __init__(self, model: GPT, recorder: Recorder = record) -> None:
        """`model` has `StaticContextBuilder`."""
        self.model = model
        self.recorder = recorder
        # By a cache's first layer, which is another one after the cache has grown.
        self._steps: WeakKeyDictionary[LayerCache, Step] = WeakKeyDictionary()

    def step(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V) after one more token of each sequence, `ids` (B, 1); the cache's lengths are the caller's."""
        positions = torch.tensor(cache.lengths, device=ids.device)[:, None]
        found = self._steps.get(cache.layers[0])
        if found is None:
            found = self._steps[cache.layers[0]] = Step(self.model, ids, positions, cache, self.recorder)
        return found(ids, positions)


class Step:
    """One token of each sequence of a cache."""

    def __init__(
        self, model: GPT, ids: Tensor, positions: Tensor, cache: KVCache, recorder: Recorder
    ) -> None:
        """Record the step of these `ids` (B, 1) at `positions` (B, 1); to do it again changes nothing."""
        own_ids, own_positions = ids.clone(), positions.clone()
        slots, dtype = cache.slots, model.embed.weight.dtype
        builder = model.context_builder
        assert isinstance(builder, StaticContextBuilder)

        def run() -> Tensor:
            context = builder.static(own_positions, own_positions[:, 0] + 1, slots, dtype)
            x = model.embedded(own_ids, context)
            x = model.run(range(len(model.layers)), x, context, cache)
            return model.logits(x, [0] * len(own_ids))

        self.ids, self.positions = own_ids, own_positions
        self.replay = recorder(run)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (B, V), the caller's own."""
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        return self.replay().clone()

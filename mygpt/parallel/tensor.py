"""Tensor parallelism (Megatron-LM, arXiv:1909.08053): each rank holds a slice of every matrix.

Heads, the MLPs' width and the vocabulary are divided. The ranks' outputs of attention and of the MLP are added up.
The model's code knows nothing of it: its modules are made smaller while the model is on the meta device, and hooks
add the outputs up. As in Megatron-LM, a column-parallel layer has a slice of the outputs (rows of a weight as torch
stores it, (out, in)), and a row-parallel layer a slice of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mygpt.checkpoint.fill import Weight
from mygpt.errors import InputError
from mygpt.model.attention import Attention, OwnHeadNorm, QKNorm
from mygpt.model.config import Config
from mygpt.model.gpt import GPT
from mygpt.model.latent_attention import LatentAttention, LowRankLinear
from mygpt.model.linear import Embedding, FusedLinear, Linear
from mygpt.model.mlp import MLP, GatedMLP
from mygpt.parallel.collectives import AddUp, Collectives


@dataclass(frozen=True)
class ShardSlice:
    """The slice of a tensor that a rank holds: `start` to `stop` of the `size` of one dimension."""

    dim: int
    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        """Its size in that dimension."""
        return self.stop - self.start


class ModelShard:
    """One rank's shard of a model.

    Attributes:
        slices: the slice of each divided weight that this rank holds, by name; None where it holds nothing of it.
    """

    def __init__(
        self, model: GPT, rank: int, world_size: int, collectives: Collectives | None = None
    ) -> None:
        """Shrink a model on the meta device to the shard; `collectives` add up over the ranks.

        Raises:
            InputError: so many ranks do not divide the model.
        """
        check_divisible(model.config, world_size)
        self.config = model.config
        self.rank = rank
        self.world_size = world_size
        self.collectives = collectives or Collectives()
        self.slices: dict[str, ShardSlice | None] = {}
        handlers: dict[type[nn.Module], Callable[[str, nn.Module], None]] = {
            Attention: self._attention,
            LatentAttention: self._latent_attention,
            GatedMLP: self._mlp,
            MLP: self._mlp,
        }
        for path, module in list(model.named_modules()):
            for kind, handler in handlers.items():
                if isinstance(module, kind):
                    handler(path, module)
        for layer in model.layers:
            for name in ("attention", "mlp"):
                layer.get_submodule(name).register_forward_hook(AddUp(self.collectives))
        self._vocabulary(model)

    def shard_weights(self, tensors: Iterable[tuple[str, Weight]]) -> Iterator[tuple[str, Weight]]:
        """A stream of whole tensors, by our names, to this rank's slices of them.

        A tensor of another shape than the model's passes whole, to be reported by `fill`.
        """
        for name, tensor in tensors:
            part = self.slices.get(name, ...)
            if part is ...:
                yield name, tensor
            elif part is not None:
                fits = len(tensor.shape) > part.dim and tensor.shape[part.dim] == part.size
                yield name, tensor.narrow(part.dim, part.start, part.length) if fits else tensor

    def _slice(self, size: int, dim: int = 0) -> ShardSlice:
        length = size // self.world_size
        return ShardSlice(dim, self.rank * length, (self.rank + 1) * length, size)

    def _kv_slice(self, width: int) -> ShardSlice:
        """Rows of the key-value heads. Where there are more ranks than heads, several ranks have the same head."""
        heads = self.config.n_kv_heads
        if heads >= self.world_size:
            return self._slice(heads * width)
        head = self.rank * heads // self.world_size
        return ShardSlice(0, head * width, (head + 1) * width, heads * width)

    def _column_parallel(self, path: str, layer: Linear | Embedding, rows: ShardSlice) -> None:
        """Keep some of a layer's outputs."""
        for name, parameter in list(layer.named_parameters(recurse=False)):
            self._resize(layer, name, (rows.length, *parameter.shape[1:]))
            self.slices[f"{path}.{name}"] = rows

    def _fused_column_parallel(self, parent: str, layer: FusedLinear, rows: dict[str, ShardSlice]) -> None:
        """Keep some of the outputs of each layer that is fused in this one."""
        layer.parts = {name: part.length for name, part in rows.items()}
        for name, parameter in list(layer.named_parameters(recurse=False)):
            self._resize(layer, name, (sum(layer.parts.values()), *parameter.shape[1:]))
            self.slices.update({f"{parent}.{fused}.{name}": part for fused, part in rows.items()})

    def _row_parallel(self, path: str, layer: Linear) -> None:
        """Keep some of a layer's inputs. The first rank alone adds the bias."""
        columns = self._slice(layer.weight.shape[1], dim=1)
        self._resize(layer, "weight", (layer.weight.shape[0], columns.length))
        self.slices[f"{path}.weight"] = columns
        if layer.bias is not None and self.rank > 0:
            layer.register_parameter("bias", None)
            self.slices[f"{path}.bias"] = None

    @staticmethod
    def _resize(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
        old: Tensor = getattr(layer, name)
        setattr(layer, name, nn.Parameter(old.new_empty(shape), requires_grad=False))
        if name == "weight" and isinstance(layer, Linear):
            layer.out_features, layer.in_features = shape

    def _attention(self, path: str, attention: nn.Module) -> None:
        assert isinstance(attention, Attention)
        width = attention.head_dim
        heads, kv_heads = self._slice(self.config.n_heads * width), self._kv_slice(width)
        self._fused_column_parallel(path, attention.qkv, {"q": heads, "k": kv_heads, "v": kv_heads})
        self._row_parallel(f"{path}.output", attention.output)
        if attention.sinks is not None:
            sinks = self._slice(self.config.n_heads)
            self._resize(attention, "sinks", (sinks.length,))
            self.slices[f"{path}.sinks"] = sinks
        if isinstance(attention.qk_norm, OwnHeadNorm):
            self._own_head_norms(path, attention.qk_norm, {"q_norm": heads, "k_norm": kv_heads})
        elif isinstance(attention.qk_norm, QKNorm) and not attention.qk_norm.by_head:
            copies = max(1, self.world_size // self.config.n_kv_heads)
            for name, rows, times in (("q", heads, 1), ("k", kv_heads, copies)):
                whole: nn.RMSNorm = getattr(attention.qk_norm, name)
                setattr(attention.qk_norm, name, ShardedRMSNorm(whole, rows.length, times, self.collectives))
                self.slices[f"{path}.qk_norm.{name}.weight"] = rows

    def _own_head_norms(self, path: str, norm: OwnHeadNorm, rows: dict[str, ShardSlice]) -> None:
        """Keep the norms of some heads."""
        width = self.config.head_dim
        kept = {
            f"{name}.{head}"
            for name, part in rows.items()
            for head in range(part.start // width, part.stop // width)
        }
        self.slices.update({f"{path}.{part}.weight": None for part in norm.parts.keys() - kept})
        norm.parts = {part: size for part, size in norm.parts.items() if part in kept}
        self._resize(norm, "weight", (sum(norm.parts.values()),))

    def _latent_attention(self, path: str, attention: nn.Module) -> None:
        """Every rank makes the latents, as it caches them; the heads are divided."""
        assert isinstance(attention, LatentAttention)
        q = attention.q
        layers: dict[str, Linear] = {"q.up": q.up} if isinstance(q, LowRankLinear) else {"q": cast(Linear, q)}
        for name, layer in {**layers, "key_up": attention.key_up, "value_up": attention.value_up}.items():
            self._column_parallel(f"{path}.{name}", layer, self._slice(layer.weight.shape[0]))
        self._row_parallel(f"{path}.output", attention.output)

    def _mlp(self, path: str, mlp: nn.Module) -> None:
        assert isinstance(mlp, GatedMLP | MLP)
        if isinstance(mlp, GatedMLP):
            self._fused_column_parallel(
                path, mlp.gate_up, {part: self._slice(rows) for part, rows in mlp.gate_up.parts.items()}
            )
        else:
            self._column_parallel(f"{path}.up", mlp.up, self._slice(mlp.up.weight.shape[0]))
        self._row_parallel(f"{path}.down", mlp.down)

    def _vocabulary(self, model: GPT) -> None:
        size = self.config.vocab_size
        length = -(-size // self.world_size)  # the last rank may have less
        start = min(self.rank * length, size)
        rows = ShardSlice(0, start, min(start + length, size), size)
        embedding = VocabParallelEmbedding(model.embed, start, self.collectives)
        self._column_parallel("embed", embedding, rows)
        model.embed = embedding
        if model.head is not None:
            self._column_parallel("head", model.head, rows)
        model.register_forward_hook(lambda module, arguments, logits: self._gather(logits, length))

    def _gather(self, logits: Tensor, length: int) -> Tensor:
        """The ranks' logits (…, length or less) to all (…, V) on rank 0; the others keep their own."""
        parts = self.collectives.gather(nn.functional.pad(logits, (0, length - logits.shape[-1])))
        return torch.cat(parts, dim=-1)[..., : self.config.vocab_size] if parts else logits


class VocabParallelEmbedding(Embedding):
    """The rows of the ids from `start` on. Other ids give zeros, so that the ranks' sum is the whole embedding."""

    def __init__(self, whole: Embedding, start: int, collectives: Collectives) -> None:
        super().__init__(whole.num_embeddings, whole.embedding_dim, device="meta", dtype=whole.weight.dtype)
        self.start = start
        self.collectives = collectives

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) to (B, T, C)."""
        rows = ids - self.start
        elsewhere = (rows < 0) | (rows >= len(self.weight))
        x = super().forward(rows.masked_fill(elsewhere, 0)).masked_fill(elsewhere[..., None], 0)
        return self.collectives.all_reduce(x)


class ShardedRMSNorm(nn.Module):
    """An RMS norm over a width of which each rank holds a slice; `copies` ranks hold the same one."""

    def __init__(self, whole: nn.RMSNorm, width: int, copies: int, collectives: Collectives) -> None:
        super().__init__()
        self.weight = nn.Parameter(whole.weight.new_empty(width), requires_grad=False)
        self.width = whole.weight.numel()
        self.copies = copies
        self.collectives = collectives
        self.eps = whole.eps

    def forward(self, x: Tensor) -> Tensor:
        """x (…, slice of the width) to the same shape."""
        squares = self.collectives.all_reduce(x.float().square().sum(-1, keepdim=True))
        normed = x.float() * torch.rsqrt(squares / (self.copies * self.width) + (self.eps or 0.0))
        return (normed * self.weight.float()).type_as(x)


def check_divisible(config: Config, world_size: int) -> None:
    """See that so many ranks divide a model.

    Raises:
        InputError: they do not; it names the sizes, and the device counts that do.
    """
    if world_size in device_counts(config, world_size):
        return
    sizes = ", ".join(f"{name} {size}" for name, size in _divided_sizes(config).items())
    counts = ", ".join(map(str, device_counts(config, world_size)))
    raise InputError(
        f"tensor parallelism over {world_size} devices cannot divide {sizes}; the device counts that do are {counts}"
    )


def device_counts(config: Config, largest: int = 8) -> list[int]:
    """The numbers of ranks that divide a model, up to 8, or to `largest` where that is more."""
    heads = 0 if config.mla is not None else config.n_kv_heads
    return [
        count
        for count in range(1, max(8, largest) + 1)
        if all(
            size % count == 0 for name, size in _divided_sizes(config).items() if name != "key-value heads"
        )
        and (heads % count == 0 or count % heads == 0)
    ]


def _divided_sizes(config: Config) -> dict[str, int]:
    sizes = {"heads": config.n_heads}
    if config.mla is None:
        sizes["key-value heads"] = config.n_kv_heads
    moe = config.moe
    if moe is None or len(moe.layers) < config.n_layers:
        sizes["MLP width"] = config.intermediate_size
    if moe is not None and moe.layers:
        sizes["experts' width"] = moe.intermediate_size
        if moe.shared_intermediate_size:
            sizes["shared expert's width"] = moe.shared_intermediate_size
    return sizes

"""Tensor parallelism (Megatron-LM, arXiv:1909.08053): each rank holds a slice of every matrix.

Heads, MLP width and vocabulary are sharded. After attention and after the MLP, the ranks' outputs are summed. The
model's code has no part in it: its modules are made smaller on the meta device, and hooks do the sums.
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
class Cut:
    """The slice of a tensor that a rank takes: `start` to `stop` of the `size` of one dimension."""

    dim: int
    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        """How much that is."""
        return self.stop - self.start


class TensorShard:
    """One rank's shard of a model.

    `cuts` says of each weight, by name, which slice the rank takes; None: another rank has it.
    """

    def __init__(
        self, model: GPT, rank: int, world_size: int, collectives: Collectives | None = None
    ) -> None:
        """Shrink a model on the meta device to the shard; `collectives` are what its ranks do together.

        Raises:
            InputError: something cannot be divided by so many ranks.
        """
        check_divisible(model.config, world_size)
        self.config = model.config
        self.rank = rank
        self.world_size = world_size
        self.collectives = collectives or Collectives()
        self.cuts: dict[str, Cut | None] = {}
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

    def slices(self, tensors: Iterable[tuple[str, Weight]]) -> Iterator[tuple[str, Weight]]:
        """The stream of whole tensors, by our names, as what this rank takes of them."""
        for name, tensor in tensors:
            cut = self.cuts.get(name, ...)
            if cut is ...:
                yield name, tensor
            elif cut is not None:
                fits = len(tensor.shape) > cut.dim and tensor.shape[cut.dim] == cut.size
                yield name, tensor.narrow(cut.dim, cut.start, cut.length) if fits else tensor

    def _share(self, size: int, dim: int = 0) -> Cut:
        share = size // self.world_size
        return Cut(dim, self.rank * share, (self.rank + 1) * share, size)

    def _kv_share(self, width: int) -> Cut:
        """Rows of the key-value heads: where ranks are more than heads, several have the same head."""
        heads = self.config.n_kv_heads
        if heads >= self.world_size:
            return self._share(heads * width)
        head = self.rank * heads // self.world_size
        return Cut(0, head * width, (head + 1) * width, heads * width)

    def _rows(self, path: str, layer: Linear | Embedding, cut: Cut) -> None:
        """Some of a layer's outputs."""
        for name, parameter in list(layer.named_parameters(recurse=False)):
            self._resize(layer, name, (cut.length, *parameter.shape[1:]))
            self.cuts[f"{path}.{name}"] = cut

    def _fused_rows(self, parent: str, layer: FusedLinear, cuts: dict[str, Cut]) -> None:
        layer.parts = {part: cut.length for part, cut in cuts.items()}
        for name, parameter in list(layer.named_parameters(recurse=False)):
            self._resize(layer, name, (sum(layer.parts.values()), *parameter.shape[1:]))
            self.cuts.update({f"{parent}.{part}.{name}": cut for part, cut in cuts.items()})

    def _columns(self, path: str, layer: Linear) -> None:
        """Some of a layer's inputs. Its bias is added once, by the first rank."""
        cut = self._share(layer.weight.shape[1], dim=1)
        self._resize(layer, "weight", (layer.weight.shape[0], cut.length))
        self.cuts[f"{path}.weight"] = cut
        if layer.bias is not None and self.rank > 0:
            layer.register_parameter("bias", None)
            self.cuts[f"{path}.bias"] = None

    @staticmethod
    def _resize(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
        old: Tensor = getattr(layer, name)
        setattr(layer, name, nn.Parameter(old.new_empty(shape), requires_grad=False))
        if name == "weight" and isinstance(layer, Linear):
            layer.out_features, layer.in_features = shape

    def _attention(self, path: str, attention: nn.Module) -> None:
        assert isinstance(attention, Attention)
        width = attention.head_dim
        heads, kv_heads = self._share(self.config.n_heads * width), self._kv_share(width)
        self._fused_rows(path, attention.qkv, {"q": heads, "k": kv_heads, "v": kv_heads})
        self._columns(f"{path}.output", attention.output)
        if attention.sinks is not None:
            cut = self._share(self.config.n_heads)
            self._resize(attention, "sinks", (cut.length,))
            self.cuts[f"{path}.sinks"] = cut
        if isinstance(attention.qk_norm, OwnHeadNorm):
            self._own_norms(path, attention.qk_norm, {"q_norm": heads, "k_norm": kv_heads})
        elif isinstance(attention.qk_norm, QKNorm) and not attention.qk_norm.by_head:
            copies = max(1, self.world_size // self.config.n_kv_heads)
            for name, cut, times in (("q", heads, 1), ("k", kv_heads, copies)):
                whole: nn.RMSNorm = getattr(attention.qk_norm, name)
                setattr(attention.qk_norm, name, ShardedRMSNorm(whole, cut.length, times, self.collectives))
                self.cuts[f"{path}.qk_norm.{name}.weight"] = cut

    def _own_norms(self, path: str, norm: OwnHeadNorm, cuts: dict[str, Cut]) -> None:
        width = self.config.head_dim
        kept = {
            f"{name}.{head}"
            for name, cut in cuts.items()
            for head in range(cut.start // width, cut.stop // width)
        }
        self.cuts.update({f"{path}.{part}.weight": None for part in norm.parts.keys() - kept})
        norm.parts = {part: rows for part, rows in norm.parts.items() if part in kept}
        self._resize(norm, "weight", (sum(norm.parts.values()),))

    def _latent_attention(self, path: str, attention: nn.Module) -> None:
        """The latents are made by every rank, as it caches them; the heads are shared out."""
        assert isinstance(attention, LatentAttention)
        q = attention.q
        layers: dict[str, Linear] = {"q.up": q.up} if isinstance(q, LowRankLinear) else {"q": cast(Linear, q)}
        for name, layer in {**layers, "key_up": attention.key_up, "value_up": attention.value_up}.items():
            self._rows(f"{path}.{name}", layer, self._share(layer.weight.shape[0]))
        self._columns(f"{path}.output", attention.output)

    def _mlp(self, path: str, mlp: nn.Module) -> None:
        assert isinstance(mlp, GatedMLP | MLP)
        if isinstance(mlp, GatedMLP):
            self._fused_rows(
                path, mlp.gate_up, {part: self._share(rows) for part, rows in mlp.gate_up.parts.items()}
            )
        else:
            self._rows(f"{path}.up", mlp.up, self._share(mlp.up.weight.shape[0]))
        self._columns(f"{path}.down", mlp.down)

    def _vocabulary(self, model: GPT) -> None:
        size = self.config.vocab_size
        share = -(-size // self.world_size)
        start = min(self.rank * share, size)
        cut = Cut(0, start, min(start + share, size), size)
        embedding = ShardedEmbedding(model.embed, start, self.collectives)
        self._rows("embed", embedding, cut)
        model.embed = embedding
        if model.head is not None:
            self._rows("head", model.head, cut)
        model.register_forward_hook(lambda module, arguments, logits: self._gather(logits, share))

    def _gather(self, logits: Tensor, share: int) -> Tensor:
        """The logits (…, V) of all ranks' slices (…, share or less), on rank 0; the others keep their own."""
        parts = self.collectives.gather(nn.functional.pad(logits, (0, share - logits.shape[-1])))
        return torch.cat(parts, dim=-1)[..., : self.config.vocab_size] if parts else logits


class ShardedEmbedding(Embedding):
    """The rows of some ids; the ranks' results are added up."""

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
    """Raise InputError where a model cannot be shared out over so many ranks: with the sizes and what would work."""
    if world_size in device_counts(config, world_size):
        return
    sizes = ", ".join(f"{name} {size}" for name, size in _shared_sizes(config).items())
    counts = ", ".join(map(str, device_counts(config, world_size)))
    raise InputError(
        f"tensor parallelism over {world_size} devices cannot divide {sizes}; the device counts that do are {counts}"
    )


def device_counts(config: Config, largest: int = 8) -> list[int]:
    """How many ranks a model can be shared out over, up to 8, or to `largest` where that is more."""
    heads = 0 if config.mla is not None else config.n_kv_heads
    return [
        count
        for count in range(1, max(8, largest) + 1)
        if all(size % count == 0 for name, size in _shared_sizes(config).items() if name != "key-value heads")
        and (heads % count == 0 or count % heads == 0)
    ]


def _shared_sizes(config: Config) -> dict[str, int]:
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

"""For families that rotate neighbouring dimensions, 2i and 2i + 1: their rows are reordered while loading.

`rope.rotate` pairs dimension i with i + dim / 2. The order does not change the attention scores, as long as queries and
keys have the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mygpt.families import llama
from mygpt.families._base import Split
from mygpt.model.config import Config

if TYPE_CHECKING:
    from torch import Tensor


def pair_halves(tensor: Tensor, config: Config) -> tuple[Tensor]:
    """The rows of q or k (heads * head_dim, …), reordered in each head."""
    heads = tensor.view(-1, config.head_dim, *tensor.shape[1:])
    return (heads[:, _order(config)].view(tensor.shape),)


def split_own_norms(tensor: Tensor, config: Config) -> tuple[Tensor, ...]:
    """The weights of a norm of q or k (heads, head_dim), reordered, one tensor a head."""
    return tensor.view(-1, config.head_dim)[:, _order(config)].unbind()


def halves(size: int) -> list[int]:
    """The first dimension of each pair of neighbours, then the second of each."""
    return [*range(0, size, 2), *range(1, size, 2)]


def _order(config: Config) -> list[int]:
    """The rotated dimensions of a head by halves, then those that are not rotated."""
    return [*halves(config.rope.dim), *range(config.rope.dim, config.head_dim)]


# Llama's, with the rows of queries and keys reordered.
NAMES: dict[str, str | Split] = {
    **llama.NAMES,
    "model.layers.{i}.self_attn.q_proj.{p}": Split(("layers.{i}.attention.q.{p}",), pair_halves),
    "model.layers.{i}.self_attn.k_proj.{p}": Split(("layers.{i}.attention.k.{p}",), pair_halves),
}

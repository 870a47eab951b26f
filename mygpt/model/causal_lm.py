"""What a causal language model is to those that run one, whatever devices and processes stand behind it.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Unpack

    from mygpt.model.config import Config
    from mygpt.model.forward_context import ForwardOptions
    from mygpt.model.kv_cache import KVCache
    from mygpt.model.rope import RotaryEmbedding


# Tokens of each sequence that one forward pass of a prefill takes at most: it bounds the size of the masks.
PREFILL_CHUNK = 1024


class CausalLM(Protocol):
    """A `GPT`, or what runs one: compiled, in parts, on several ranks."""

    @property
    def config(self) -> Config:
        """The architecture of the whole model."""

    @property
    def rope(self) -> RotaryEmbedding:
        """The rotary embedding of the layers without a window. It tells when growth outdates a cache."""

    def allocate_cache(self, batch_size: int, slots: int, device: torch.device | None = None) -> KVCache:
        """An empty cache of `slots` tokens for each sequence, each layer's part beside its weights or on `device`."""

    def __call__(
        self, ids: Tensor, cache: KVCache | None = None, **options: Unpack[ForwardOptions]
    ) -> Tensor:
        """Logits (B, T, V) of the tokens `ids` (B, T) that follow what `cache` holds; (B, V) with `logits_indices`.

        The cache is written. Its lengths are the caller's to advance.
        """

"""Rotary position embeddings (RoFormer, arXiv:2104.09864) and the ways to stretch them over longer contexts.

Shapes: B sequences, T tokens, H heads, D dimensions per head, R rotated dimensions (R <= D, even).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from mygpt.model.config import RopeConfig


class RotaryEmbedding(nn.Module):
    """Positions to the tables `rotate` takes.

    `inv_freq` (R / 2,) is made on the CPU even under the meta device: it comes from no file.
    """

    inv_freq: Tensor
    long_inv_freq: Tensor

    def __init__(self, rope: RopeConfig) -> None:
        super().__init__()
        self.rope = rope
        self.register_buffer("inv_freq", inverse_frequencies(rope), persistent=False)
        if rope.type == "longrope":
            long = inverse_frequencies(replace(rope, divisors=rope.long_divisors))
            self.register_buffer("long_inv_freq", long, persistent=False)

    def forward(self, positions: Tensor, lengths: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The tables cos and sin that `rotate` takes, each (B, T, 1, R), in `dtype`.

        `positions` (B, T) are the tokens' places in their sequences; `lengths` (B,) the sequences' whole
        lengths, on which the frequencies of the types `dynamic` and `longrope` depend.
        """
        inv_freq = self.inv_freq
        if self.rope.type == "dynamic":
            inv_freq = _dynamic(self.rope, lengths.to(inv_freq.device))[:, None]
        elif self.rope.type == "longrope":
            longer = lengths.to(inv_freq.device)[:, None] > self.rope.original_max_positions
            inv_freq = torch.where(longer, self.long_inv_freq, inv_freq)[:, None]
        angles = positions[..., None].float() * inv_freq
        cos, sin = angles.cos() * self.rope.attention_factor, angles.sin() * self.rope.attention_factor
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        return cos.to(dtype).unsqueeze(2), sin.to(dtype).unsqueeze(2)

    def outdates_cache(self, old_length: int, new_length: int) -> bool:
        """Whether growing a sequence changes the frequencies, so that what is cached of it is wrong.

        Keys of every layer but the first depend on them through the hidden states too: the only right
        answer is to compute the sequence anew.
        """
        original = self.rope.original_max_positions
        if self.rope.type == "longrope":  # LongRoPE (arXiv:2402.13753) has two sets of frequencies
            return (old_length > original) != (new_length > original)
        return self.rope.type == "dynamic" and max(old_length, new_length) > original


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dimensions of each head of x (B, T, H, D) by the tables (B, T, 1, R).

    Dimension i turns together with i + R / 2; the first half of `sin` holds the minus of the turn.
    """
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)


def inverse_frequencies(rope: RopeConfig) -> Tensor:
    """Radians per token of each pair of dimensions, (R / 2,) float32 on the CPU."""
    base = 1.0 / _powers(torch.tensor(rope.theta, device="cpu"), rope.dim)
    if rope.type == "linear":
        return base / rope.factor
    if rope.type == "llama3":
        return _llama3(base, rope)
    if rope.type == "yarn":
        return _yarn(base, rope)
    if rope.type in ("divisors", "longrope"):
        return base / torch.tensor(rope.divisors, device="cpu")
    return base


def _powers(theta: Tensor, dim: int) -> Tensor:
    """theta to the powers 0, 2 / dim, 4 / dim, …: (…, dim / 2) for theta (…)."""
    return theta.float()[..., None] ** (torch.arange(0, dim, 2, device=theta.device).float() / dim)


def _dynamic(rope: RopeConfig, lengths: Tensor) -> Tensor:
    """NTK-aware scaling by each sequence's length (B,), as transformers' `dynamic`: (B, R / 2)."""
    original = rope.original_max_positions
    stretch = rope.factor * lengths.clamp(min=original) / original - (rope.factor - 1)
    return 1.0 / _powers(rope.theta * stretch ** (rope.dim / (rope.dim - 2)), rope.dim)


def _llama3(base: Tensor, rope: RopeConfig) -> Tensor:
    """Llama 3.1: long wavelengths are stretched, short ones kept, a smooth passage between."""
    turns = rope.original_max_positions * base / (2 * math.pi)  # over the context of pre-training
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * base / rope.factor + smooth * base


def _yarn(base: Tensor, rope: RopeConfig) -> Tensor:
    """YaRN (arXiv:2309.00071, section 3.2): dimensions that turn often are kept, slow ones stretched."""

    def dimension(turns: float) -> float:
        """The (fractional) pair of dimensions that makes `turns` turns over the original context."""
        ratio = rope.original_max_positions / (turns * 2 * math.pi)
        return rope.dim * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    width = high - low or 0.001  # as transformers has it, so that a ramp of no width is a step
    ramp = ((torch.arange(rope.dim // 2, device="cpu").float() - low) / width).clamp(0, 1)
    return (1 - ramp) * base + ramp * base / rope.factor

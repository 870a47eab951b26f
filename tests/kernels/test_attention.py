"""Attention over a cache, of one token of each sequence and of many, equals torch's over what is to be seen."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mygpt import kernels as facade
from mygpt.kernels.cpu.library import Library
from mygpt.model.rope import rotate
from tests.kernels.conftest import check

SHAPES = [(6, 2, 64, 64), (3, 3, 96, 32), (5, 1, 32, 0)]  # heads, key heads, dimensions, rotated ones
STARTS = torch.tensor([[0], [5], [171]])  # tokens that the cache holds already


def attends_right(new: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Of sequences of different lengths, in a cache that is full, beside whose end nothing may be read or written."""
    heads, kv_heads, dim, rotated = shape
    slots = 171 + new
    around = torch.full((2, 3, kv_heads, slots + 2, dim), torch.nan).to(dtype)
    keys, values = cache = around[:, :, :, 1:-1]
    for row, start in enumerate(STARTS):
        cache[:, row, :, :start] = torch.randn(2, kv_heads, int(start), dim)
    before = cache.clone()
    wide = torch.randn(3, new, heads + 2 * kv_heads, dim).to(dtype)
    qk, v = wide.split((heads + kv_heads, kv_heads), dim=2)
    angles = torch.randn(3, new, 1, rotated // 2)
    cos = angles.cos().repeat(1, 1, 1, 2).to(dtype)
    sin = torch.cat((-angles.sin(), angles.sin()), -1).to(dtype)
    positions = STARTS + torch.arange(new)
    tables = (cos, sin) if rotated else None
    y = facade.attend(qk, v, facade.CacheStep(keys, values, slots, 0, positions, slots, tables, None))
    assert y is not None

    turned = rotate(qk, cos, sin) if rotated else qk
    q, k = turned[:, :, :heads], turned[:, :, heads:]
    for row, start in enumerate(STARTS.flatten().tolist()):
        before[0, row, :, start : start + new] = k[row].transpose(0, 1)
        before[1, row, :, start : start + new] = v[row].transpose(0, 1)
        seen = before[:, row, :, : start + new].double().repeat_interleave(heads // kv_heads, dim=1)
        mask = torch.arange(start + new) <= positions[row][:, None]
        reference = F.scaled_dot_product_attention(q[row].transpose(0, 1).double(), *seen, attn_mask=mask)
        check(y[row], reference.transpose(0, 1))
    if dtype is torch.bfloat16:
        torch.testing.assert_close(cache, before, equal_nan=True)
    else:  # a multiplication and an addition may be one instruction
        torch.testing.assert_close(cache, before, equal_nan=True, rtol=1e-5, atol=1e-6)
    assert around[:, :, :, (0, -1)].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (8, 2, 80, 80), (12, 3, 128, 64)], ids=str)
def test_one_token(
    kernels: Library, shape: tuple[int, int, int, int], dtype: torch.dtype, threads: int
) -> None:
    attends_right(1, shape, dtype)


@pytest.mark.parametrize("new", [2, 33, 150])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_many_tokens(tiles: Library, new: int, shape: tuple[int, int, int, int], threads: int) -> None:
    attends_right(new, shape, torch.bfloat16)


def step(x: Tensor, *, heads: int = 1, dim: int = 64, window: int = 0) -> facade.CacheStep:
    keys = torch.zeros(len(x), heads, 8, dim, dtype=x.dtype)
    positions = torch.zeros(len(x), x.shape[1], dtype=torch.long)
    return facade.CacheStep(keys, keys.clone(), 8, window, positions, 1, None, None)


def test_what_is_left_to_torch(kernels: Library) -> None:
    one, two = torch.zeros(1, 1, 3, 64), torch.zeros(1, 2, 3, 64)
    assert facade.attend(one, one[:, :, :1], step(one)) is not None
    assert facade.attend(two, two[:, :, :1], step(two)) is None
    assert facade.attend(one.double(), one[:, :, :1].double(), step(one.double())) is None
    assert facade.attend(one, one[:, :, :1], step(one.bfloat16())) is None
    odd = torch.zeros(1, 1, 3, 40)
    assert facade.attend(odd, odd[:, :, :1], step(odd, dim=40)) is None
    many = torch.zeros(1, 1, 66, 64)
    assert facade.attend(many, many[:, :, :1], step(many)) is None
    windowed = two.bfloat16()
    assert facade.attend(windowed, windowed[:, :, :1], step(windowed, window=4)) is None

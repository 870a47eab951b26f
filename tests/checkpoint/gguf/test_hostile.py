"""GGUF files whose headers lie: refused before memory is taken or a tensor is read."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFValueType

from mygpt.checkpoint.gguf.checkpoint import GGUFCheckpoint
from mygpt.checkpoint.gguf.header import read_header
from mygpt.errors import InputError
from mygpt.quantize.schemes import ggml_scheme

MIB = 2**20
STRING, ARRAY, U32, F32 = (
    GGUFValueType.STRING,
    GGUFValueType.ARRAY,
    GGUFValueType.UINT32,
    GGUFValueType.FLOAT32,
)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def u32(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def f32(key: str, value: float) -> bytes:
    return entry(key, F32, struct.pack("<f", value))


def array(key: str, kind: int, count: int, values: bytes = b"") -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + values)


def tensor(name: str, dims: tuple[int, ...], offset: int = 0, kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


SIZES = {
    "embedding_length": 32, "block_count": 1, "feed_forward_length": 32, "context_length": 32,
    "attention.head_count": 4,
}  # fmt: skip
EMBEDDING = tensor("token_embd.weight", (32, 8))


def write(
    path: Path,
    *entries: bytes,
    tensors: tuple[bytes, ...] = (EMBEDDING,),
    data: int = 2048,
    counts: tuple[int, int] | None = None,
    **sizes: int,
) -> Path:
    """A llama's header with more entries, and so many bytes of zeros behind it."""
    metadata = [
        entry("general.architecture", STRING, text("llama")),
        f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        *(u32(f"llama.{key}", value) for key, value in {**SIZES, **sizes}.items()),
        *entries,
    ]
    numbers = counts or (len(tensors), len(metadata))
    path.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, *numbers) + b"".join(metadata) + b"".join(tensors) + bytes(data)
    )
    return path


BROKEN: dict[str, dict[str, Any]] = {
    "alignment of a half": {"entries": (f32("general.alignment", 0.5),)},
    "alignment of 0": {"entries": (u32("general.alignment", 0),)},
    "alignment of 24": {"entries": (u32("general.alignment", 24),)},
    "alignment huge": {"entries": (u32("general.alignment", 2**31),)},
    "no dimensions": {"tensors": (tensor("token_embd.weight", ()),)},
    "five dimensions": {"tensors": (tensor("token_embd.weight", (32, 2, 2, 2, 1)),)},
    "a dimension of 0": {"tensors": (tensor("token_embd.weight", (32, 0)),)},
    "dimensions past 2^64": {"tensors": (tensor("token_embd.weight", (2**63, 2**63)),)},
    "past the end": {"tensors": (tensor("token_embd.weight", (32, 8), 2**40),)},
    "overlapping": {"tensors": (EMBEDDING, tensor("output_norm.weight", (32,), 64))},
    "one name twice": {"tensors": (EMBEDDING, tensor("token_embd.weight", (32, 8), 1024))},
    "an unknown tensor type": {"tensors": (tensor("token_embd.weight", (32, 8), kind=999),)},
    "an unknown value type": {"entries": (entry("x", 99, b""),)},
    "a string past the end": {"entries": (entry("x", STRING, struct.pack("<Q", 2**62)),)},
    "text that is no UTF-8": {"entries": (entry("x", STRING, struct.pack("<Q", 1) + b"\xff"),)},
    "an array past the end": {"entries": (array("tokenizer.x", U32, 2**62),)},
    "an unknown array past the end": {"entries": (array("x", U32, 2**62),)},
    "10^8 strings": {"entries": (array("tokenizer.x", STRING, 10**8),)},
    "deeply nested arrays": {
        "entries": (entry("x", ARRAY, b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(10**5))),)
    },
    "2^63 entries": {"counts": (1, 2**63)},
    "2^63 tensors": {"counts": (2**63, 8)},
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_headers_that_are_wrong_in_one_place(case: dict[str, Any], tmp_path: Path) -> None:
    case = dict(case)
    path = write(tmp_path / "model.gguf", *case.pop("entries", ()), **case)
    with pytest.raises(InputError, match=r"model\.gguf is truncated or corrupt") as caught:
        GGUFCheckpoint(path)
    assert "\n" not in str(caught.value)


REFUSED = {
    "end tokens in a list": ((array("tokenizer.ggml.eos_token_id", U32, 1, bytes(4)),), "eos_token_id"),
    "an end token of half": ((f32("tokenizer.ggml.eot_token_id", 0.5),), "eot_token_id is no token's id"),
    "an end token past 2^31": ((u32("tokenizer.ggml.eos_token_id", 2**32 - 1),), "eos_token_id is no token's id"),
    "an infinite base": ((f32("llama.rope.freq_base", float("inf")),), "freq_base is missing or not a number"),
    "a base of NaN": ((f32("llama.rope.freq_base", float("nan")),), "freq_base is missing or not a number"),
    "a negative factor": ((f32("llama.rope.scaling.factor", -2.0),), "rope scaling's factor is -2.0"),
    "heads in an array": ((array("llama.attention.head_count_kv", U32, 1, bytes(4)),), "head_count_kv"),
    "2^32 - 1 layers": ((u32("llama.block_count", 2**32 - 1),), "lacks the tensors of its 4294967295 layers"),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "says"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("error")
def test_values_that_are_wrong(entries: tuple[bytes, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        GGUFCheckpoint(write(tmp_path / "model.gguf", *entries))
    assert "model.gguf" in str(caught.value)


def test_divisors_of_another_shape(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", tensors=(EMBEDDING, tensor("rope_freqs.weight", (5,), 1024)))
    with pytest.raises(InputError, match=r"rope_freqs\.weight has the shape \(5,\) in place of \(4,\)"):
        GGUFCheckpoint(path)


def test_large_arrays_that_nobody_needs_cost_nothing(tmp_path: Path) -> None:
    """An object for each of their numbers would take twenty times the file."""
    count = 5 * 10**6
    path = write(tmp_path / "model.gguf", array("imatrix.values", U32, count, bytes(4 * count)))
    tracemalloc.start()
    try:
        header = read_header(path)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    assert header.metadata["llama.block_count"] == 1
    assert [found.name for found in header.tensors] == ["token_embd.weight"]


def test_the_tokenizer_s_arrays_are_bounded_together(tmp_path: Path) -> None:
    count = 3 * 10**6
    arrays = [array(f"tokenizer.ggml.{key}", GGUFValueType.UINT8, count, bytes(count)) for key in "abc"]
    assert len(read_header(write(tmp_path / "two.gguf", *arrays[:2])).metadata["tokenizer.ggml.a"]) == count
    with pytest.raises(InputError, match=r"three\.gguf is truncated or corrupt"):
        read_header(write(tmp_path / "three.gguf", *arrays))


def test_nested_arrays_are_passed_over(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", U32, 2) + bytes(8)
    path = write(tmp_path / "model.gguf", array("x", ARRAY, 3, 3 * nested), u32("general.file_type", 7))
    assert read_header(path).metadata["general.file_type"] == 7


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q6_K", "Q2_K"])
@pytest.mark.filterwarnings("error")
def test_blocks_of_any_bytes_are_decoded_without_a_warning(kind: str) -> None:
    """Infinite scales times 0."""
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    scheme = ggml_scheme(kind)
    assert scheme is not None
    for byte in (0x7C, 0xFF):
        decoded = scheme.decode(np.full(3 * size, byte, np.uint8), kind, (3, block))
        assert decoded.shape == (3, block)
        assert decoded.dtype == torch.float32


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path: Path) -> None:
    layer = {
        "attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32),
        "attn_output": (32, 32), "ffn_gate": (32, 32), "ffn_up": (32, 32), "ffn_down": (32, 32),
    }  # fmt: skip
    names = {
        "token_embd": (32, 8),
        "output_norm": (32,),
        **{f"blk.0.{name}": dims for name, dims in layer.items()},
    }
    tensors, end = [], 0
    for name, dims in names.items():
        tensors.append(tensor(f"{name}.weight", dims, end))
        end += 4 * int(np.prod(dims))
    path = write(tmp_path / "model.gguf", tensors=tuple(tensors), data=end + 32)
    stream = GGUFCheckpoint(path).tensors()
    next(stream)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"model\.gguf has changed while it was read"):
        list(stream)

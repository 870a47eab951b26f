"""Hostile `.bin` files: they are refused before they take memory, and nothing of them runs."""

import pickle
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError

MIB = 2**20


class Call:
    """Pickled, it is a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def folder_of(folder: Path, state: Any, *, zipped: bool = True) -> Path:
    (folder / "config.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    return folder


def streamed(folder: Path) -> dict[str, torch.Tensor]:
    return dict(open_checkpoint(folder).tensors())


def overlapping() -> torch.Tensor:
    return torch.zeros(10).as_strided((8, 3), (1, 1))


HOSTILE: dict[str, tuple[Any, str]] = {
    "a bytearray": ({"w": Call(bytearray, 10**9)}, r"more than weights \((builtins|__builtin__)\.bytearray\)"),
    "zero strides": ({"w": torch.zeros(1).expand(20_000, 20_000)}, "truncated or corrupt"),
    "overlapping": ({"w": overlapping()}, "truncated or corrupt"),
    "one storage many times": (dict.fromkeys("abcdefgh", torch.zeros(9999)), r"319968 bytes of tensors in \d+"),
    "a key that is a number": ({1: torch.zeros(1)}, "a key that is no text"),
    "a key that is a tuple": ({("a",): torch.zeros(1)}, "a key that is no text"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "_get_layout"),
    "on the meta device": ({"w": torch.empty(3, device="meta")}, "_rebuild_meta_tensor_no_storage"),
    "complex": ({"w": torch.zeros(2, dtype=torch.cfloat)}, "ComplexFloatStorage"),
    "nested": ({"model": {"w": torch.zeros(1)}}, "no plain list of weights"),
    "numbers": ({"w": 3}, "no plain list of weights"),
    "a list": ([torch.zeros(1)], "no plain list of weights"),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(("state", "says"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_before_memory_is_taken(
    tmp_path: Path, state: Any, says: str, zipped: bool
) -> None:
    folder_of(tmp_path, state, zipped=zipped)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=says) as caught:
            streamed(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()
    assert "pytorch_model.bin" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shape_larger_than_its_storage(tmp_path: Path) -> None:
    file = folder_of(tmp_path, {"w": torch.zeros(4, 5)}) / "pytorch_model.bin"
    content = file.read_bytes()
    assert content.count(b"K\x04K\x05\x86") == 1
    file.write_bytes(content.replace(b"K\x04K\x05\x86", b"K\x04K\xff\x86"))
    with pytest.raises(InputError, match="truncated or corrupt"):
        streamed(tmp_path)


# Pickles of less than a hundred bytes
BOMBS = {
    "a memory of 2^32 places": b"\x80\x02}r\xff\xff\xff\xff.",
    "a hash of 2^60 steps": b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "a shape of 2^60 numbers": (
        b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(X\x07\0\0\0storagectorch\nFloatStorage\n"
        b"X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQK\x00(" + b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f" * 60 + b"t)\x89}tRs."
    ),
    "no mark": b"\x80\x02t.",
    "no value": b"\x80\x02.",
    "an attribute of a class": b"\x80\x02ctorch\nFloatStorage\n}b.",
    "protocol 4's globals": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
}  # fmt: skip


@pytest.mark.parametrize("pickled", BOMBS.values(), ids=BOMBS)
def test_small_pickles_that_ask_for_much(tmp_path: Path, pickled: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(4))
    if pickled.startswith(b"\x80\x02}r"):
        assert streamed(tmp_path) == {}
        return
    with pytest.raises(
        InputError, match=r"pytorch_model\.bin (is truncated or corrupt|holds more than weights)"
    ):
        streamed(tmp_path)


def test_a_zip_bomb(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"N" * 10**8)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="truncated or corrupt"):
            streamed(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_long_list_of_names_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, {"x" * 1000 + str(number): None for number in range(5000)})
    with pytest.raises(InputError, match=r"more than weights \(\d+ bytes of data\.pkl\)"):
        streamed(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_what_plain_files_hold_is_read(tmp_path: Path, zipped: bool) -> None:
    """All types, parameters, views, and the metadata that modules leave in their state."""
    base = torch.arange(24.0).view(4, 6)
    state = torch.nn.Linear(3, 2).state_dict()
    assert isinstance(state, OrderedDict)
    state |= {
        f"{dtype}": base.to(dtype) for dtype in (torch.float64, torch.half, torch.bfloat16, torch.int64)
    }
    state |= {
        f"{dtype}": base.to(dtype)
        for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    }
    state |= {
        "rows": base[1:3],
        "columns": base[:, 1::2],
        "t": base.T,
        "empty": base[:0],
        "scalar": base[2, 3],
    }
    state |= {"parameter": torch.nn.Parameter(base)}
    found = streamed(folder_of(tmp_path, state, zipped=zipped))
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].is_contiguous()) == (tensor.dtype, True)
        assert torch.equal(found[name], tensor.detach()), name
        assert not found[name].requires_grad


def test_old_python_s_pickles_are_read(tmp_path: Path) -> None:
    """Python 2 wrote text as bytes, and a dict's items as a list."""
    (tmp_path / "config.json").write_text("{}")
    tensor = (
        b"ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQ"
        b"K\x00K\x02\x85K\x01\x85tR"
    )
    pickled = b"\x80\x02ccollections\nOrderedDict\n]]U\x01wa" + tensor + b"aa\x85R."
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", torch.tensor([1.0, 2.0]).numpy().tobytes())
    assert streamed(tmp_path)["w"].tolist() == [1.0, 2.0]


def test_a_pickle_that_torch_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"w": 1}, protocol=2))
    with pytest.raises(InputError, match="truncated or corrupt"):
        streamed(tmp_path)

"""Write a checkpoint as a Hugging Face folder of safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.disk import writing
from mygpt.checkpoint.new_folder import new_folder
from mygpt.errors import InputError

_SHARD_BYTES = 4 * 10**9  # of a written file: bounds the memory that writing takes


def write_folder(
    checkpoint: Checkpoint,
    target: Path,
    dtype: torch.dtype | None = None,
    *,
    tensors: Iterable[tuple[str, Tensor]] | None = None,
    config: dict[str, Any] | None = None,
    nbytes: int | None = None,
) -> None:
    """Write a checkpoint as a Hugging Face folder of safetensors, its floats cast to `dtype` if given.

    The folder appears when it is complete. Memory: one shard, 4 GB or the largest tensor. `tensors` and `config`
    are written in place of the checkpoint's own; `nbytes` is what they take, if not as much as its own.

    Raises:
        InputError: the target exists or cannot be made, or a cast is asked for weights that are stored quantized.
        RunError: the disk is full.
    """
    if dtype and checkpoint.scheme is not None:
        raise InputError(
            f"{checkpoint.path} is stored quantized, so its dtype cannot be changed; leave dtype out"
        )
    config = config or checkpoint.config
    config = with_dtype(config, dtype) if dtype else config
    nbytes = written_bytes(checkpoint, dtype) if nbytes is None else nbytes
    with new_folder(target, nbytes) as partial:
        with writing(target, nbytes):
            _write_json(partial / "config.json", config)
            if checkpoint.generation_config:
                _write_json(partial / "generation_config.json", checkpoint.generation_config)
            checkpoint.write_tokenizer(partial)
        _write_weights(tensors or checkpoint.tensors(), partial, dtype, lambda: writing(target, nbytes))


def written_bytes(checkpoint: Checkpoint, dtype: torch.dtype | None) -> int:
    """Bytes of all tensors of a checkpoint, its floats cast to `dtype` if given."""
    return sum(
        shape.numel() * (dtype if dtype and stored.is_floating_point else stored).itemsize
        for shape, stored in checkpoint.shapes().values()
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def with_dtype(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A copy of the config that says `dtype` wherever it named one, nested configs included."""
    name = str(dtype).removeprefix("torch.")
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    nested = {
        key: with_dtype(value, dtype)
        for key, value in config.items()
        if isinstance(value, dict) and ("dtype" in value or "torch_dtype" in value)
    }
    return config | nested | dict.fromkeys(keys, name)


def _write_weights(
    tensors: Iterable[tuple[str, Tensor]],
    folder: Path,
    dtype: torch.dtype | None,
    writing: Callable[[], AbstractContextManager[None]],
) -> None:
    """One `model.safetensors`, or shards with an index where it would be larger than a shard.

    `writing` explains errors of the disk; those of reading `tensors` are not its.
    """
    shards: list[list[str]] = []
    total = 0
    for shard in _shards(tensors, dtype):
        file = folder / f"{len(shards)}.safetensors"
        with writing():
            save_file(shard, file, metadata={"format": "pt"})
            file.chmod((folder / "config.json").stat().st_mode)  # the library lets nobody else read it
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(shards) == 1:
        (folder / "0.safetensors").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards):
        final = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"{number}.safetensors").rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    with writing():
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None) -> Iterator[dict[str, Tensor]]:
    """Tensors in groups of up to `_SHARD_BYTES`. A group is emptied when the next is asked for."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        target = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        # a copy: safetensors refuses tensors that share memory or are not contiguous, as in a `.bin` file
        tensor = tensor.to(target, copy=True, memory_format=torch.contiguous_format)
        if shard and size + tensor.nbytes > _SHARD_BYTES:
            yield shard
            shard.clear()
            size = 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard

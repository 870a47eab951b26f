"""Which files of a folder hold its weights and its tokenizer, by their names.

Reads indexes, no weights; imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mygpt.errors import InputError
from mygpt.json_files import read_json

SLOW_TOKENIZER = ("vocab.json", "merges.txt")  # needed only where no tokenizer.json says the same
_INDEX = ".index.json"
# The file that leads to the weights, the best first: it holds them, or it is the index of the files (shards) that
# do. Other copies of the same weights (consolidated.safetensors, original/, onnx/) match none of these.
_ENTRIES = (
    "model.safetensors",
    "model.safetensors" + _INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin" + _INDEX,
)
# All that a tokenizer and its chat template may lie in.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    *SLOW_TOKENIZER,
)
WANTED = "model.safetensors or pytorch_model.bin, or their index"  # for messages


def weights_entry(names: Collection[str]) -> str | None:
    """The file that leads to the weights, among the names in a folder."""
    return next((name for name in _ENTRIES if name in names), None)


def is_index(name: str) -> bool:
    """Whether this weights file only names the files that hold the weights."""
    return name.endswith(_INDEX)


def read_index(index: Path) -> dict[str, set[str]]:
    """The shards that an index names, in order, each with the names of its tensors.

    Raises:
        InputError: the index is broken, or names a file outside its folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map; download it again")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not _is_plain_name(shard):
            raise InputError(
                f"{index} names the shard {shard!r}, no plain file name; do not trust this checkpoint"
            )
        shards.setdefault(shard, set()).add(tensor)
    return dict(sorted(shards.items()))


def _is_plain_name(shard: Any) -> bool:
    """Whether a shard's name stays in the folder (which may hold links, as folders of the Hub's cache do)."""
    return isinstance(shard, str) and shard not in ("", ".", "..") and not set(shard) & set("/\\:\0")

"""The files of a model repository that mygpt needs, and those that a folder lacks. Uses no network."""

from collections.abc import Collection
from pathlib import Path

from mygpt.checkpoint.index import (
    SLOW_TOKENIZER,
    TOKENIZER_FILES,
    WANTED,
    is_index,
    read_index,
    weights_entry,
)
from mygpt.errors import InputError

CONFIG = "config.json"

_SMALL = (
    CONFIG,
    "generation_config.json",
    *(name for name in TOKENIZER_FILES if name not in SLOW_TOKENIZER),
    "README.md",
)
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), SLOW_TOKENIZER)


def needed_files(repo: str, names: Collection[str]) -> tuple[list[str], str]:
    """The small files that a repository has, and its weights: one file, or the index of several.

    Raises:
        InputError: it has no weights, config or tokenizer that mygpt can read.
    """
    weights = weights_entry(names)
    if weights is None:
        raise InputError(_no_weights(repo, names))
    if CONFIG not in names:
        raise InputError(f"{repo} holds no {CONFIG}: choose a repository in the Hugging Face layout")
    if not _has_tokenizer(names):
        raise InputError(f"{repo} holds no tokenizer (tokenizer.json): choose a repository that has one")
    small = [name for name in _SMALL if name in names]
    if "tokenizer.json" not in names:
        small += [name for name in SLOW_TOKENIZER if name in names]
    return small, weights


def missing_files(folder: Path) -> list[str]:
    """The files that the model in this folder lacks.

    Raises:
        InputError: the folder's weight index cannot be read.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    missing = [] if CONFIG in names else [CONFIG]
    if not _has_tokenizer(names):
        missing.append("tokenizer.json")
    weights = weights_entry(names)
    if weights is None:
        missing.append("model.safetensors")
    elif is_index(weights):
        missing += sorted(set(read_index(folder / weights)) - names)
    return missing


def _has_tokenizer(names: Collection[str]) -> bool:
    return any(all(name in names for name in kind) for kind in _TOKENIZERS)


def _no_weights(repo: str, names: Collection[str]) -> str:
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if not gguf:
        return f"{repo} holds no weights that mygpt reads ({WANTED}): choose another repository"
    listed = ", ".join(gguf[:8]) + (f" and {len(gguf) - 8} more" if len(gguf) > 8 else "")
    return f"{repo} holds GGUF files only: download one and pass its path (there are {listed})"

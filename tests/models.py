"""Tiny random checkpoints of each family with a tokenizer: what the command line needs to write text."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.families.variants import variant

FAMILIES = {"llama": "llama-gqa", "gpt_neox": "gpt-neox-parallel", "falcon": "falcon-7b"}
PADDED_VOCAB = 320  # rows of the embedding; the tokenizer has fewer ids
CONTEXT = 128  # tokens
EOS = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Of tests that run torch.compile itself; `test_without_a_compiler` says what a user is told.
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, [os.environ.get("CXX", "g++"), "clang++", "cl"])), reason="needs a C++ compiler"
)


def write_model(folder: Path, family: str = "llama", *, chat: bool = True, **changes: Any) -> Path:
    """A checkpoint of `family`; `changes` are those of its `config.json`."""
    base = variant(FAMILIES[family])
    replace(base, changes={**base.changes, "vocab_size": PADDED_VOCAB, **changes}).build(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(folder, chat=chat)
    return folder


def write_tokenizer(folder: Path, *, chat: bool = True) -> int:
    """A byte-level tokenizer without merges, 257 ids, so that each byte of a text is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([EOS])
    backend.save(str(folder / "tokenizer.json"))
    config = {"eos_token": EOS} | ({"chat_template": CHAT_TEMPLATE} if chat else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return backend.get_vocab_size()


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; those that become None are removed."""
    content = {**json.loads(path.read_text()), **changes} if path.exists() else changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

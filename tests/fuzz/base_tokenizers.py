"""A small llama with each kind of tokenizer that mygpt reads."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.families.chat_templates import TEMPLATES
from tests.fuzz.base_models import NOTE, SIZES, THINK
from tests.models import write_model

Maker = Callable[[Path], None]
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Příliš žluťoučký kůň",
    "abab aba ab a ba 12345",
    "你好 🙂",
] * 5
SPECIAL = ["<unk>", "<s>", "</s>"]
UNKNOWN = {"unk_token": "<unk>"}


def makers() -> dict[str, Maker]:
    """A function for each base, which writes it into an empty folder."""
    backends = {"bpe": _bpe, "unigram": _unigram, "wordpiece": _wordpiece, "wordlevel": _wordlevel}
    return {
        **{f"tokenizer/{name}": partial(_with_backend, make) for name, make in backends.items()},
        "tokenizer/sp-unigram": partial(_with_sentencepiece, "unigram"),
        "tokenizer/sp-bpe": partial(_with_sentencepiece, "bpe"),
        "tokenizer/vocab-merges": _with_vocab_and_merges,
    }


def _model(folder: Path) -> None:
    write_model(folder, **SIZES)
    (folder / "tokenizer.json").unlink()
    added = {"0": {"content": "<unk>", "special": True, "lstrip": False, "normalized": False}}
    config = {
        **{"eos_token": "</s>", "bos_token": {"content": "<s>", "lstrip": False}, "unk_token": "<unk>"},
        **{"add_bos_token": True, "add_eos_token": False, "model_max_length": 128, "add_prefix_space": False},
        **{"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": added, "extra_special_tokens": {}},
        **{"additional_special_tokens": ["<|x|>"], "chat_template": NOTE + THINK + TEMPLATES["qwen2"]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    special = {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "additional_special_tokens": ["<|y|>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "added_tokens.json").write_text(json.dumps({"<|x|>": 316, "<|y|>": 317}))


def _with_backend(make: Callable[[], Tokenizer], folder: Path) -> None:
    _model(folder)
    backend = make()
    backend.add_tokens(["<|x|>"])
    backend.save(str(folder / "tokenizer.json"))


def _bpe() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("~", "-")])
    digits = pre_tokenizers.Split(r"\d", "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.enable_truncation(100)
    return backend


def _unigram() -> Tokenizer:
    pieces = [*((token, 0.0) for token in SPECIAL), ("▁", -2.0)]
    pieces += [(piece, -3.0 - number / 10) for number, piece in enumerate(_pieces())]
    backend = Tokenizer(models.Unigram(pieces, 0, False))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Metaspace(), decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def _wordpiece() -> Tokenizer:
    pieces = [*SPECIAL, *_pieces(), *(f"##{piece}" for piece in _pieces())]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, **UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return backend


def _pieces() -> list[str]:
    """Not trained: their trainers give another vocabulary each time."""
    return [*sorted(set("".join(TEXTS)) - {" "}), "the", "Th", "ab", "qu", "ick"]


def _wordlevel() -> Tokenizer:
    words = [*SPECIAL, *dict.fromkeys(" ".join(TEXTS).split())]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, **UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.FixedLength(4)]
    )
    return backend


def _with_sentencepiece(kind: str, folder: Path) -> None:
    _model(folder)
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20), model_writer=file, model_type=kind, vocab_size=315,
            byte_fallback=True, character_coverage=0.98, user_defined_symbols=["<usr>"], minloglevel=3,
            hard_vocab_limit=False, num_threads=1,
        )  # fmt: skip


def _with_vocab_and_merges(folder: Path) -> None:
    _model(folder)
    content = json.loads(_bpe().to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in content["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")

"""Tokenizers out of GGUF metadata: the same ids as the tokenizers they were made from."""

import argparse
import io
import json
import textwrap
from pathlib import Path

import pytest
import sentencepiece
from gguf import TokenType
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from mygpt.checkpoint.gguf.tokenizer import build_tokenizer
from mygpt.checkpoint.open import open_checkpoint
from mygpt.errors import InputError

TEXTS = (
    "The quick brown fox, it's 12345 times I'LL  jump\n\n\tover.  ",
    "Žluťoučký kůň, größer; naïve café — ½ …",
    "Съешь же ещё этих мягких французских булок",
    "敏捷的棕色狐狸跳过了懒狗。いろはにほへと 다람쥐",
    "نص حكيم له سر قاطع",
    "नमस्ते दुनिया",
    "👩‍👩‍👧 🇨🇭 é (e + ◌́)",
    "def f(x):\n    return x != 3  # ok\r\n",
    " leading and trailing  ",
)

# Byte-level tokenizers


def trained(pre_tokenizer: pre_tokenizers.PreTokenizer, size: int = 1000) -> Backend:
    """A byte-level BPE tokenizer, trained on Python source and `TEXTS`."""
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<eos>", "<bos>"], show_progress=False
    )
    backend.train_from_iterator([*corpus(), *TEXTS], trainer)
    return backend


def corpus() -> list[str]:
    return Path(argparse.__file__).read_text().splitlines(keepends=True)


def byte_level_metadata(backend: Backend, pre: str, **fields) -> dict:
    merges = json.loads(backend.to_str())["model"]["merges"]
    tokens = sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)
    types = [TokenType.CONTROL if token in ("<bos>", "<eos>") else TokenType.NORMAL for token in tokens]
    ids = {"eos_token_id": 0, "bos_token_id": 1}
    values = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, **ids, **fields}
    values["merges"] = [" ".join(merge) for merge in merges]
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL])


@pytest.mark.parametrize(
    ("pre", "original"),
    [("gpt-2", BYTE_LEVEL), ("mpt", BYTE_LEVEL), ("smollm", DIGITS), ("starcoder", DIGITS)],
)
def test_byte_level_tokenizer_equals_the_original(pre: str, original):
    expected = trained(original)
    found, _ = build_tokenizer(byte_level_metadata(expected, pre))
    for text in (*TEXTS, *corpus()):
        assert found.encode(text).ids == expected.encode(text).ids, text
        assert found.decode(found.encode(text).ids) == text


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("llama-bpe", ["I", "'M", " x", "123", "45", "!\n\n", " ", " été", " a", "/b"]),
        ("qwen2", ["I", "'M", " x", "1", "2", "3", "4", "5", "!\n\n", " ", " été", " a", "/b"]),
        ("tekken", ["I", "'M", " x", "1", "2", "3", "4", "5", "!\n\n", " ", " été", " a", "/b"]),
        ("smollm", ["I", "'", "M", " x", "1", "2", "3", "4", "5", "!", "\n\n ", " été", " a", "/", "b"]),
        ("default", ["I", "'", "M", " x", "123", "45", "!", "\n\n ", " été", " a", "/", "b"]),
        ("deepseek-coder", [*"I'M", " x", *"12345!\n\n ", " été", " a", "/", "b"]),
    ],
)  # fmt: skip
def test_how_text_is_cut_into_words(pre: str, words: list[str]):
    metadata = byte_level_metadata(trained(BYTE_LEVEL), pre)
    pieces = build_tokenizer(metadata)[0].pre_tokenizer.pre_tokenize_str("".join(words))
    spans = [("".join(words))[start:end] for _, (start, end) in pieces]
    assert spans == words


def test_special_and_defined_tokens():
    metadata = byte_level_metadata(trained(BYTE_LEVEL), "gpt-2")
    metadata["tokenizer.ggml.tokens"] += ["<think>", "<|im_end|>"]
    metadata["tokenizer.ggml.token_type"] += [TokenType.USER_DEFINED, TokenType.CONTROL]
    tokenizer, _ = build_tokenizer(metadata)
    ids = tokenizer.encode("a<think>b<|im_end|><bos>").ids
    assert [tokenizer.id_to_token(i) for i in ids] == ["a", "<think>", "b", "<|im_end|>", "<bos>"]
    assert tokenizer.decode(ids) == "a<think>b"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<think>b<|im_end|><bos>"


@pytest.mark.parametrize(
    ("pre", "fields", "expected"),
    [
        ("gpt-2", {}, ["a"]),
        ("llama-bpe", {}, ["<bos>", "a"]),
        ("llama-bpe", {"add_bos_token": False}, ["a"]),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, ["<bos>", "a", "<eos>"]),
        ("gpt-2", {"add_bos_token": True, "bos_token_id": None}, ["a"]),
    ],
)
def test_bos_and_eos(pre: str, fields: dict, expected: list[str]):
    tokenizer, config = build_tokenizer(byte_level_metadata(trained(BYTE_LEVEL), pre, **fields))
    assert tokenizer.encode("a").tokens == expected
    assert tokenizer.encode("a", add_special_tokens=False).tokens == ["a"]
    assert config["add_bos_token"] is ("<bos>" in expected or fields.get("add_bos_token", False))
    assert config["eos_token"] == "<eos>"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pre": "unheard-of"}, "pre-tokenizer 'unheard-of'"),
        ({"pre": None}, "pre-tokenizer None"),
        ({"model": "t5"}, "tokenizer 't5' is not supported"),
        ({"tokens": None}, "no proper tokenizer.ggml.tokens"),
        ({"token_type": [1]}, "token_type of /x/y.gguf holds 1 for 1000 tokens"),
        ({"eos_token_id": 1000}, "eos_token_id of /x/y.gguf is 1000, no token's id"),
        ({"model": "llama"}, "no proper tokenizer.ggml.scores"),
        ({"model": ["gpt2"]}, "is not supported"),
        ({"pre": ["gpt-2"]}, "pre-tokenizer ..gpt-2"),
        ({"tokens": "abc"}, "no proper tokenizer.ggml.tokens"),
        ({"tokens": [["a"]]}, "no proper tokenizer.ggml.tokens"),
        ({"token_type": 1}, "no proper tokenizer.ggml.token_type"),
        ({"token_type": [[1]] * 1000}, "no proper tokenizer.ggml.token_type"),
        ({"token_type": ["a"] * 1000}, "no proper tokenizer.ggml.token_type"),
        ({"model": "llama", "scores": [1] * 1000}, "no proper tokenizer.ggml.scores"),
        ({"model": "llama", "scores": [1.0] * 999}, "scores of /x/y.gguf holds 999 for 1000 tokens"),
        ({"model": "llama", "scores": [0.5] * 1000, "unknown_token_id": [1]}, r"is \[1\], no token's id"),
        ({"merges": 5}, "no proper tokenizer.ggml.merges"),
        ({"merges": [1]}, "no proper tokenizer.ggml.merges"),
        ({"merges": ["ab"]}, "/x/y.gguf is broken"),
        ({"eos_token_id": [0]}, r"is \[0\], no token's id"),
        ({"bos_token_id": True}, "is True, no token's id"),
        ({"bos_token_id": -1}, "is -1, no token's id"),
    ],
)
def test_broken_tokenizers(fields: dict, message: str):
    metadata = byte_level_metadata(trained(BYTE_LEVEL), "gpt-2")
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    with pytest.raises(InputError, match=message) as error:
        build_tokenizer(metadata, Path("/x/y.gguf"))
    assert "/x/y.gguf" in str(error.value)


def test_a_token_of_a_megabyte_is_refused_at_once():
    """Its splits would be 10^12 characters."""
    tokens, types = ["<unk>", "a" * 10**6], [TokenType.UNKNOWN, TokenType.NORMAL]
    values = {"model": "llama", "tokens": tokens, "token_type": types, "scores": [0.0, 0.0]}
    with pytest.raises(InputError, match=r"the GGUF file is broken .a token of 1000000 characters"):
        build_tokenizer({f"tokenizer.ggml.{key}": value for key, value in values.items()})


def test_merges_longer_than_any_token_are_no_panic(capfd: pytest.CaptureFixture[str]):
    values = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b"], "merges": ["aaaa bbbb"]}
    with pytest.raises(InputError, match="is broken"):
        build_tokenizer({f"tokenizer.ggml.{key}": value for key, value in values.items()})
    assert capfd.readouterr().err == ""


def test_a_vocabulary_without_an_unknown_token():
    values = {"model": "llama", "tokens": ["a", "▁a"], "scores": [0.0, 0.0], "token_type": [1, 1]}
    tokenizer, config = build_tokenizer({f"tokenizer.ggml.{key}": value for key, value in values.items()})
    assert tokenizer.encode("aé").ids == [0]
    assert "unk_token" not in config


def test_merges_outside_the_vocabulary():
    metadata = byte_level_metadata(trained(BYTE_LEVEL), "gpt-2")
    metadata["tokenizer.ggml.merges"] = ["a nowhere"]
    with pytest.raises(InputError, match=r"vocabulary of the GGUF file is broken .*download it again"):
        build_tokenizer(metadata)


# Sentencepiece


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "no prefix"])
def pieces(request: pytest.FixtureRequest) -> sentencepiece.SentencePieceProcessor:
    """A model with the settings of Llama 2, with and without the space before the text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus() * 2), model_writer=model, vocab_size=800, model_type="bpe",
        byte_fallback=True, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=request.param, character_coverage=0.9999,
        allow_whitespace_only_pieces=True, user_defined_symbols=["<sym>"], minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    processor.prefix = request.param
    return processor


def sentencepiece_metadata(pieces: sentencepiece.SentencePieceProcessor) -> dict:
    """As llama.cpp's converter writes it."""

    def kind(index: int) -> TokenType:
        if pieces.IsUnknown(index):
            return TokenType.UNKNOWN
        if pieces.IsControl(index):
            return TokenType.CONTROL
        if pieces.IsByte(index):
            return TokenType.BYTE
        return TokenType.USER_DEFINED if pieces.IdToPiece(index) == "<sym>" else TokenType.NORMAL

    every = range(pieces.GetPieceSize())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.IdToPiece(index) for index in every],
        "tokenizer.ggml.scores": [pieces.GetScore(index) for index in every],
        "tokenizer.ggml.token_type": [kind(index) for index in every],
        "tokenizer.ggml.unknown_token_id": pieces.unk_id(),
        "tokenizer.ggml.bos_token_id": pieces.bos_id(),
        "tokenizer.ggml.eos_token_id": pieces.eos_id(),
        "tokenizer.ggml.add_space_prefix": pieces.prefix,
    }


def test_sentencepiece_ids_are_its_own(pieces: sentencepiece.SentencePieceProcessor):
    tokenizer, _ = build_tokenizer(sentencepiece_metadata(pieces))
    source = "".join(corpus())
    cuts = [source[start : start + 211] for start in range(0, len(source), 1009)]
    for text in (*TEXTS, *cuts, textwrap.dedent(source[:3000])):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == pieces.encode(text), text
        assert tokenizer.decode(ids) == text


def test_sentencepiece_begins_with_bos_and_keeps_symbols(pieces: sentencepiece.SentencePieceProcessor):
    tokenizer, config = build_tokenizer(sentencepiece_metadata(pieces))
    assert tokenizer.encode("a<sym>").tokens[0] == "<s>"
    assert "<sym>" in tokenizer.encode("a<sym>b").tokens
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert tokenizer.decode(tokenizer.encode("a</s>").ids) == "a"


# The real thing


def test_real_tokenizer(smollm2_gguf: Path):
    """transformers 5.3 builds a wrong one from this file; these ids are those of the original repository."""
    tokenizer = open_checkpoint(smollm2_gguf).tokenizer()
    assert tokenizer.encode("The quick brown fox") == [504, 2365, 6354, 16438]
    assert tokenizer.encode("1 2 3") == [33, 216, 34, 216, 35]
    assert tokenizer.encode("<|im_start|>user\n") == [1, 4093, 198]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text

"""A Hugging Face tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.

The fields: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The file names its pre-tokenizer; llama.cpp's
`llama-vocab.cpp` defines what each name means.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from mygpt.errors import InputError
from mygpt.text.panics import refuse_failures, refuse_quietly
from mygpt.text.tokenizer_files import bos_eos_processor, merges_by_score, try_out

_SPACE = "▁"  # how sentencepiece writes a space

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_GPT4 = (  # OpenAI's cl100k; models differ in how many digits a word takes
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _GPT4.format(digits="{1,3}")
_QWEN2 = _GPT4.format(digits="")
_TEKKEN = (  # Mistral Nemo's: a word may change from upper to lower case, not back
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# By `tokenizer.ggml.pre`: regular expressions that cut the text one after the other, each what the last left.
_PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "mpt": (_GPT2,),
    "olmo": (_GPT2,),
    "smollm": (_DIGIT, _GPT2),
    "starcoder": (_DIGIT, _GPT2),
    "refact": (_DIGIT, _GPT2),
    "codeshell": (_DIGIT, _GPT2),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "falcon3": (_LLAMA3,),
    "smaug-bpe": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "tekken": (_TEKKEN,),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT),
}
# These take a word whole where it is in the vocabulary, and begin with BOS unless the file says otherwise.
_TIKTOKEN_LIKE = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"})

_USE_REPOSITORY = "use the model's Hugging Face repository instead"
_AGAIN = "download it again"

_SPECIAL_TYPES = (TokenType.CONTROL, TokenType.UNKNOWN)
_TOKEN_NAMES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def build_tokenizer(
    metadata: dict[str, Any], origin: Path | str = "the GGUF file"
) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer that a GGUF file's metadata describes, and the content of its `tokenizer_config.json`.

    The tokenizer's own post-processor adds BOS (and EOS) as the file wants it. `origin` is the file, for messages.

    Raises:
        InputError: the tokenizer is of an unknown kind, or fields that it needs are missing or wrong.
    """
    with refuse_quietly(f"the tokenizer of {origin} is broken"):
        fields = _Fields(metadata, origin)
        kind = fields.get("model")
        if kind == "gpt2":
            tokenizer, adds_bos = _byte_level(fields)
        elif kind == "llama":
            tokenizer, adds_bos = _sentencepiece(fields), True
        else:
            raise InputError(
                f"{origin}: the GGUF tokenizer {kind!r} is not supported (gpt2 and llama are); {_USE_REPOSITORY}"
            )
        _add_tokens(tokenizer, fields)
        config = _config(metadata, fields, adds_bos)
        tokenizer.post_processor = bos_eos_processor(tokenizer, config)
        try_out(tokenizer)
        return tokenizer, config


class _Fields:
    """The `tokenizer.ggml.*` metadata, checked as it is asked for."""

    def __init__(self, metadata: dict[str, Any], origin: Path | str) -> None:
        self._metadata = metadata
        self.origin = origin
        self.tokens: list[str] = self.array("tokens", str)
        normal = [int(TokenType.NORMAL)] * len(self.tokens)
        given = self.get("token_type") not in (None, [])
        self.types: list[int] = self.per_token("token_type", int) if given else normal

    def get(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(f"tokenizer.ggml.{key}", default)

    def array(self, key: str, kind: type) -> list[Any]:
        values = self.get(key)
        if not isinstance(values, list) or not values or not isinstance(values[0], kind):
            raise InputError(
                f"{self.origin} has no proper tokenizer.ggml.{key}; {_AGAIN}, or {_USE_REPOSITORY}"
            )
        return values  # the format's arrays hold values of one type

    def per_token(self, key: str, kind: type) -> list[Any]:
        values = self.array(key, kind)
        if len(values) != len(self.tokens):
            count = f"{len(values)} for {len(self.tokens)} tokens"
            raise InputError(f"tokenizer.ggml.{key} of {self.origin} holds {count}; {_AGAIN}")
        return values

    def token(self, id_key: str) -> str | None:
        """The text of the token whose id stands under `id_key`."""
        token_id = self.get(id_key)
        if token_id is None:
            return None
        if type(token_id) is not int or not 0 <= token_id < len(self.tokens):
            raise InputError(
                f"tokenizer.ggml.{id_key} of {self.origin} is {token_id}, no token's id; {_AGAIN}"
            )
        return self.tokens[token_id]

    def vocabulary(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}


def _byte_level(fields: _Fields) -> tuple[Tokenizer, bool]:
    """GPT-2's kind: BPE on bytes, written as printable characters. And whether BOS comes first by default."""
    name = fields.get("pre")
    if not isinstance(name, str) or name not in _PRE_TOKENIZERS:
        raise InputError(
            f"{fields.origin}: the GGUF pre-tokenizer {name!r} (tokenizer.ggml.pre) is unknown; {_USE_REPOSITORY}"
        )
    merges = [_pair(merge) for merge in fields.array("merges", str)]
    tiktoken_like = name in _TIKTOKEN_LIKE
    tokenizer = _tokenizer(fields, merges, ignore_merges=tiktoken_like)
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _PRE_TOKENIZERS[name]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, tiktoken_like


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _sentencepiece(fields: _Fields) -> Tokenizer:
    """Llama's kind: sentencepiece's BPE on characters, bytes where a character has no token of its own."""
    tokenizer = _tokenizer(
        fields,
        _merges(fields),
        unk_token=fields.token("unknown_token_id"),
        fuse_unk=True,
        byte_fallback=TokenType.BYTE in fields.types,
    )
    prefix = fields.get("add_space_prefix", True)
    as_pieces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), as_pieces]) if prefix else as_pieces
    )
    as_text = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*as_text, decoders.Strip(" ", 1, 0)] if prefix else as_text)
    return tokenizer


def _tokenizer(fields: _Fields, merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    with refuse_failures(f"the vocabulary of {fields.origin} is broken"):
        return Tokenizer(BPE(fields.vocabulary(), merges, **options))


def _merges(fields: _Fields) -> list[tuple[str, str]]:
    scored = zip(fields.tokens, fields.per_token("scores", float), fields.types, strict=True)
    return merges_by_score({token: score for token, score, kind in scored if kind == TokenType.NORMAL})


def _add_tokens(tokenizer: Tokenizer, fields: _Fields) -> None:
    """Tokens that are found in the text before it is cut: control tokens, and those its makers defined."""
    typed = list(zip(fields.tokens, fields.types, strict=True))
    special = [
        AddedToken(token, normalized=False, special=True) for token, kind in typed if kind in _SPECIAL_TYPES
    ]
    plain = [AddedToken(token, normalized=False) for token, kind in typed if kind == TokenType.USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _config(metadata: dict[str, Any], fields: _Fields, adds_bos: bool) -> dict[str, Any]:
    """The content of `tokenizer_config.json`."""
    config: dict[str, Any] = {name: fields.token(id_key) for name, id_key in _TOKEN_NAMES.items()}
    config["add_bos_token"] = bool(fields.get("add_bos_token", adds_bos))
    config["add_eos_token"] = bool(fields.get("add_eos_token", False))
    config["chat_template"] = metadata.get("tokenizer.chat_template")
    config["clean_up_tokenization_spaces"] = False
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # take tokenizer.json as it is
    return {key: value for key, value in config.items() if value is not None}

"""Reads the tokenizer files of a repository: tokenizer.json, sentencepiece's .model, GPT-2's two files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from mygpt.errors import InputError
from mygpt.json_files import read_json

LoadedTokenizer = tuple[tokenizers.Tokenizer, dict[str, Any]]  # a backend and its tokenizer_config.json

_SPACE = "▁"  # how sentencepiece writes a space in its pieces
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # ModelProto.SentencePiece.Type
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType


def load_folder(folder: Path) -> LoadedTokenizer:
    """Read `tokenizer.json`, else `tokenizer.model` (sentencepiece), else `vocab.json` with `merges.txt`.

    Raises:
        InputError: there is none of them, or one of the files is not what its name says.
    """
    config = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    if (path := folder / "tokenizer.json").is_file():
        backend = _load_tokenizer_json(path)
        _declare_tokens(backend, config, folder)
        return backend, config  # with its own post-processor; transformers 5 ignores add_bos_token too
    if (path := folder / "tokenizer.model").is_file():
        backend, defaults = _load_sentencepiece(path)
    elif (path := folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend, defaults = _load_vocab_and_merges(path, config)
    else:
        wanted = "tokenizer.json, tokenizer.model, or vocab.json with merges.txt"
        raise InputError(f"no tokenizer in {folder}: download the repository's {wanted}")
    added = read_json(folder / "added_tokens.json")
    defaults["added_tokens_decoder"] = {token_id: {"content": token} for token, token_id in added.items()}
    config = {**defaults, **config}
    _declare_tokens(backend, config, folder)
    backend.post_processor = bos_eos_processor(backend, config)
    return backend, config


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that the config names (`bos_token`, `eos_token`, …), as strings."""
    named = ((key, _content(value)) for key, value in config.items() if key.endswith("_token"))
    return {key: content for key, content in named if content}


def bos_eos_processor(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any]
) -> processors.TemplateProcessing:
    """Adds BOS and EOS as `add_bos_token` and `add_eos_token` say; both default to false, as in transformers 5."""
    named = named_tokens(config)

    def added(key: str) -> list[tuple[str, int]]:
        token_id = backend.token_to_id(named.get(key, ""))
        return [] if token_id is None or not config.get(f"add_{key}") else [(named[key], token_id)]

    bos, eos = added("bos_token"), added("eos_token")
    single = [*(token for token, _ in bos), "$A", *(token for token, _ in eos)]
    return processors.TemplateProcessing(single=single, special_tokens=[*bos, *eos])


def _content(token: Any) -> str | None:
    """A token's text; the config files write a token as a string or as the fields of an AddedToken."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _declare_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any], folder: Path) -> None:
    """Give the backend the tokens that the config adds or calls special. The config's flags win."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    try:
        backend.add_tokens(list(_added_tokens(config)))
        extra = list(extra.values() if isinstance(extra, Mapping) else extra)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"the added tokens in {folder} are malformed ({error!r}): download its JSON files again"
        raise InputError(message) from error
    special = {*named_tokens(config).values(), *filter(None, map(_content, extra))}
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    # A name that the vocabulary lacks stays without an id: the model would have no row for it.
    backend.add_special_tokens([t for t in special - known if backend.token_to_id(t) is not None])


def _added_tokens(config: Mapping[str, Any]) -> Iterator[AddedToken]:
    """`added_tokens_decoder` in the order of its ids: the backend gives each new token the next id."""
    declared = config.get("added_tokens_decoder") or {}
    special = set(named_tokens(config).values())
    flags = ("lstrip", "rstrip", "normalized", "single_word", "special")
    for _, token in sorted((int(token_id), token) for token_id, token in declared.items()):
        given = {flag: token[flag] for flag in flags if flag in token}
        if token["content"] in special:
            given["special"] = True
        yield AddedToken(token["content"], **given)


def _load_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more precise
        raise InputError(f"{path} is not a valid tokenizer ({_brief(error)}): download it again") from error


def _load_vocab_and_merges(vocab: Path, config: Mapping[str, Any]) -> LoadedTokenizer:
    """GPT-2's format: byte-level BPE, with `<|endoftext|>` where the config names no special tokens."""
    wanted = config.get("tokenizer_class") or "GPT2Tokenizer"
    if wanted not in ("GPT2Tokenizer", "GPT2TokenizerFast"):  # others have another pre-tokenizer
        raise InputError(
            f"{vocab.parent} holds a {wanted} without tokenizer.json: write that file with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    try:
        model = models.BPE.from_file(str(vocab), str(vocab.with_name("merges.txt")))
    except Exception as error:  # tokenizers raises nothing more precise
        message = f"{vocab} and merges.txt do not fit ({_brief(error)}): download both again"
        raise InputError(message) from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(config.get("add_prefix_space", False))
    )
    backend.decoder = decoders.ByteLevel()
    return backend, dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")


def _load_sentencepiece(path: Path) -> LoadedTokenizer:
    """The tokenizer of a sentencepiece model: its pieces, normalizer, decoder and special tokens."""
    proto = _read_sentencepiece(path)
    trainer = proto.trainer_spec
    if trainer.model_type not in (_UNIGRAM, _BPE) or trainer.treat_whitespace_as_suffix:
        raise InputError(f"{path} is neither a BPE nor a unigram model with leading spaces: not supported")
    backend = tokenizers.Tokenizer(_unigram(proto) if trainer.model_type == _UNIGRAM else _bpe(proto))
    symbols = [piece.piece for piece in proto.pieces if piece.type == _USER_DEFINED]
    special = [piece.piece for piece in proto.pieces if piece.type in (_CONTROL, _UNKNOWN)]
    backend.normalizer = _sentencepiece_normalizer(proto.normalizer_spec, symbols)
    backend.decoder = _sentencepiece_decoder(proto.normalizer_spec)
    # As in sentencepiece, symbols are matched in the normalized text, and special tokens in the text itself.
    backend.add_tokens([AddedToken(symbol, normalized=True) for symbol in symbols])
    backend.add_special_tokens(special)
    ids = {"bos_token": trainer.bos_id, "eos_token": trainer.eos_id, "unk_token": trainer.unk_id}
    return backend, {key: proto.pieces[index].piece for key, index in ids.items() if index >= 0}


def _read_sentencepiece(path: Path) -> Any:
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise InputError(
            f"{path} is a sentencepiece model: pip install 'mygpt[sentencepiece]' to read it"
        ) from error
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        message = f"{path} is not a sentencepiece model ({_brief(error)}): download it again"
        raise InputError(message) from error
    messages: Any = sentencepiece_model_pb2  # generated at import time: type checkers cannot see it
    return messages.ModelProto.FromString(processor.serialized_model_proto())


def _unigram(proto: Any) -> models.Unigram:
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    return models.Unigram(pieces, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    return models.BPE(
        vocab={piece.piece: index for index, piece in enumerate(proto.pieces)},
        merges=merges_by_score({p.piece: p.score for p in proto.pieces if p.type == _NORMAL}),
        unk_token=proto.pieces[proto.trainer_spec.unk_id].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def merges_by_score(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges: each split of a piece into two pieces. Sentencepiece merges the pair with the best score first."""
    return [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _sentencepiece_normalizer(spec: Any, symbols: list[str]) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" +"), " ")]
    if spec.add_dummy_prefix:
        # The backend normalizes the symbols themselves as well, and these must stay as they are. (The price: a
        # text that is one symbol and nothing else gets no prefix, where sentencepiece gives it one.)
        unchanged = "|".join(["", *map(_escape, symbols)])
        steps.append(normalizers.Replace(Regex(rf"\A(?!(?:{unchanged})\z)"), " "))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _sentencepiece_decoder(spec: Any) -> decoders.Decoder:
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    return decoders.Sequence([*steps, *strip])


def _escape(text: str) -> str:
    """`text` as an Oniguruma pattern."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0]

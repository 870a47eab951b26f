"""Reads the tokenizer files of a repository: tokenizer.json, sentencepiece's .model, GPT-2's two files."""

import base64
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from mygpt.errors import InputError
from mygpt.json_files import is_file, read_bytes, read_json
from mygpt.text.panics import refuse_quietly

LoadedTokenizer = tuple[tokenizers.Tokenizer, dict[str, Any]]  # a backend and its tokenizer_config.json

_SPACE = "▁"  # how sentencepiece writes a space in its pieces
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # ModelProto.SentencePiece.Type
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_MAX_PIECE = 10_000  # characters; the longest of real ones have some hundred
_NOT_EMPTY = re.compile(rb'\s*:\s*"[^"]')  # after the name of a text in JSON
_MOST_GROWTH = 100.0


def load_folder(folder: Path) -> LoadedTokenizer:
    """Read `tokenizer.json`, else `tokenizer.model` (sentencepiece), else `vocab.json` with `merges.txt`.

    Raises:
        InputError: there is none of them, or one of the files is not what its name says.
    """
    config = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    if (content := read_bytes(path := folder / "tokenizer.json")) is not None:
        with refuse_quietly(f"{path} is not a valid tokenizer"):
            backend = _load_tokenizer_json(path, content)
            _declare_tokens(backend, config, folder)
            try_out(backend)
        return backend, config  # with its own post-processor; transformers 5 ignores add_bos_token too
    added = _added_ids(folder / "added_tokens.json")
    if (content := read_bytes(path := folder / "tokenizer.model")) is not None:
        with refuse_quietly(f"{path} is not a valid tokenizer"):
            return _completed(*_load_sentencepiece(path, content), added, config, folder)
    if is_file(path := folder / "vocab.json") and is_file(folder / "merges.txt"):
        with refuse_quietly(f"{path} is not a valid tokenizer"):
            return _completed(*_load_vocab_and_merges(path, config), added, config, folder)
    wanted = "tokenizer.json, tokenizer.model, or vocab.json with merges.txt"
    raise InputError(f"no tokenizer in {folder}: download the repository's {wanted}")


def _completed(
    backend: tokenizers.Tokenizer,
    defaults: dict[str, Any],
    added: dict[str, int],
    config: dict[str, Any],
    folder: Path,
) -> LoadedTokenizer:
    """A tokenizer from the older files, with all that the JSON files beside them say."""
    defaults["added_tokens_decoder"] = {token_id: {"content": token} for token, token_id in added.items()}
    config = {**defaults, **config}
    _declare_tokens(backend, config, folder)
    backend.post_processor = bos_eos_processor(backend, config)
    try_out(backend)
    return backend, config


def _added_ids(path: Path) -> dict[str, int]:
    added = read_json(path)
    if not all(type(token_id) is int for token_id in added.values()):
        raise InputError(f"{path} does not give each token a whole number: download it again")
    return added


# Texts at which something in a broken file fails: spaces and none at both ends, short ones, all sorts of characters.
_TRIALS = (
    "",
    " ",
    "a",
    "é",
    "🙂",
    "The quick  brown fox",
    "  a\r\n\tb 1234!\n ",
    "你好 ö👩\u200d👧 e\u0301 </s>",
)


def try_out(backend: tokenizers.Tokenizer) -> None:
    """Encode and decode a little: a file can hold what the library reads and then panics at."""
    for text, special in itertools.product(_TRIALS, (True, False)):
        with suppress(Exception):  # a vocabulary need not know each character
            ids = backend.encode(text, add_special_tokens=special).ids
            for some in (ids, *([token_id] for token_id in ids)):
                backend.decode(some, skip_special_tokens=False)


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


def _load_tokenizer_json(path: Path, content: bytes) -> tokenizers.Tokenizer:
    if _may_abort(content):
        _check_survivable(json.loads(content), path)
    backend: tokenizers.Tokenizer = tokenizers.Tokenizer.from_buffer(content)
    # Some repositories saved the settings of their training run: they would truncate or pad every prompt. Padding to
    # 10^12 tokens would end the process.
    backend.no_truncation()
    backend.no_padding()
    for part in (backend.normalizer, backend.decoder):
        if part is not None and _growth(json.loads(part.__getstate__())) > _MOST_GROWTH:
            raise InputError(f"{path}: its replacements make a text too long: download it again")
    return backend


def _growth(step: Mapping[str, Any]) -> float:
    """How many times as long a text may become by the replacements of a normalizer or decoder."""
    growth = 1.0
    for part in step.get("normalizers") or step.get("decoders") or []:
        growth *= _growth(part)
    if step.get("type") == "Replace":
        replaced = len(step["pattern"].get("String") or "x")  # a regular expression may match one character
        growth *= max(1.0, len(step["content"]) / replaced)
    return growth


def _may_abort(content: bytes) -> bool:
    """Whether a tokenizer.json holds what can end the process; reading all of it in Python would take long."""
    prefixes = content.split(b'"continuing_subword_prefix"')[1:]
    written_with_escapes = b"\\u00" in content and re.search(rb"\\u00[2-7]", content)  # such as "T\u0079pe"
    return bool(b'"Precompiled"' in content or written_with_escapes or any(map(_NOT_EMPTY.match, prefixes)))


def _check_survivable(content: Any, path: Path) -> None:
    """Refuse what ends the process: the library asks for more memory than there is, or cuts a character in two."""
    model = content.get("model") or {}
    prefix = model.get("continuing_subword_prefix")
    if prefix and model.get("type") != "WordPiece":
        seconds = [merge.split(" ")[-1] if isinstance(merge, str) else merge[1] for merge in model["merges"]]
        if not prefix.isascii() or not all(second.startswith(prefix) for second in seconds):
            raise InputError(f"{path}: its merges lack the prefix {prefix!r}: download it again")
    steps = [content.get("normalizer")]
    while steps:
        step = steps.pop() or {}
        steps += step.get("normalizers", [])
        if step.get("precompiled_charsmap"):
            check_charsmap(base64.b64decode(step["precompiled_charsmap"]), path)


def check_charsmap(charsmap: bytes, path: Path) -> None:
    """See that sentencepiece's table of replacements is as long as it says: the library allocates what it says."""
    if charsmap and int.from_bytes(charsmap[:4], "little") > len(charsmap) - 4:
        raise InputError(f"{path}: its precompiled_charsmap is cut off: download it again")


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


def _load_sentencepiece(path: Path, content: bytes) -> LoadedTokenizer:
    """The tokenizer of a sentencepiece model: its pieces, normalizer, decoder and special tokens."""
    proto = _read_sentencepiece(path, content)
    trainer = proto.trainer_spec
    if trainer.model_type not in (_UNIGRAM, _BPE) or trainer.treat_whitespace_as_suffix:
        raise InputError(f"{path} is neither a BPE nor a unigram model with leading spaces: not supported")
    backend = tokenizers.Tokenizer(_unigram(proto) if trainer.model_type == _UNIGRAM else _bpe(proto))
    symbols = [piece.piece for piece in proto.pieces if piece.type == _USER_DEFINED]
    special = [piece.piece for piece in proto.pieces if piece.type in (_CONTROL, _UNKNOWN)]
    check_charsmap(proto.normalizer_spec.precompiled_charsmap, path)
    backend.normalizer = _sentencepiece_normalizer(proto.normalizer_spec, symbols)
    backend.decoder = _sentencepiece_decoder(proto.normalizer_spec)
    # As in sentencepiece, symbols are matched in the normalized text, and special tokens in the text itself.
    backend.add_tokens([AddedToken(symbol, normalized=True) for symbol in symbols])
    backend.add_special_tokens(special)
    ids = {"bos_token": trainer.bos_id, "eos_token": trainer.eos_id, "unk_token": trainer.unk_id}
    return backend, {key: proto.pieces[index].piece for key, index in ids.items() if index >= 0}


def _read_sentencepiece(path: Path, content: bytes) -> Any:
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise InputError(
            f"{path} is a sentencepiece model: pip install 'mygpt[sentencepiece]' to read it"
        ) from error
    try:
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(content)
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
    """The merges: each split of a piece into two pieces. Sentencepiece merges the pair with the best score first.

    Raises:
        ValueError: a piece is so long that its splits would take minutes.
    """
    if (longest := max(map(len, scores), default=0)) > _MAX_PIECE:
        raise ValueError(f"a token of {longest} characters")
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

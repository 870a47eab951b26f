"""From text to ids and back, also one id at a time."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from mygpt.errors import InputError
from mygpt.text.panics import as_input_error, refuse_failures
from mygpt.text.tokenizer_files import load_folder, named_tokens

_CHARACTERS_PER_TOKEN = 8  # more than most texts have
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")  # how a byte-fallback vocabulary writes a byte


class TooManyTokensError(InputError):
    """A text has more than `n_tokens` tokens, which are more than it may have; how many was not counted."""

    def __init__(self, n_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt of more than {n_tokens} tokens does not fit the model's context of {limit} tokens; shorten it"
        )
        self.n_tokens = n_tokens


class Tokenizer:
    """A `tokenizers` backend with the contents of `tokenizer_config.json`."""

    def __init__(
        self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], origin: Path | None = None
    ) -> None:
        """`origin` is the folder or file that it was read from, for messages."""
        self.backend = backend
        self.config = config
        self._place = f"{origin}: " if origin else ""
        self.special_tokens = named_tokens(config)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read the tokenizer files in the folder of a repository.

        Raises:
            InputError: there are none, or one is corrupt.
        """
        return cls(*load_folder(folder), folder)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, with added tokens. Ids from here on have no text."""
        return max(self.vocabulary.values(), default=-1) + 1

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id, with added tokens."""
        return self.backend.get_vocab(with_added_tokens=True)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids that `decode` leaves out."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def encode(self, text: str, *, limit: int | None = None) -> list[int]:
        """The ids of a text. Special tokens written in it are recognized; none are added.

        Args:
            text: any text.
            limit: tokens that it may have. It is exact for none but texts of many times as many: these are not
                encoded, which would take hundreds of bytes a character.

        Raises:
            TooManyTokensError: the text goes far over the limit.
            InputError: it is not Unicode, or the tokenizer has no token for a part of it.
        """
        return self._encode(text, limit, add_special_tokens=False)

    def encode_prompt(self, text: str, *, limit: int | None = None) -> list[int]:
        """The ids of a raw prompt, with the special tokens (BOS, …) that the tokenizer's post-processor adds.

        Arguments and errors are those of `encode`.
        """
        return self._encode(text, limit, add_special_tokens=True)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens."""
        try:
            return self.backend.decode(ids, skip_special_tokens=True)
        except BaseException as error:
            raise as_input_error(f"{self._place}the tokenizer cannot decode the ids", error) from error

    def token_to_id(self, token: str) -> int | None:
        """The id of one token, or None if the vocabulary lacks it."""
        return self.backend.token_to_id(token)

    def eos_ids(self) -> tuple[int, ...]:
        """The id of `eos_token`, if there is one; the model's config files may name more."""
        eos = self.token_to_id(self.special_tokens.get("eos_token", ""))
        return () if eos is None else (eos,)

    def _encode(self, text: str, limit: int | None, *, add_special_tokens: bool) -> list[int]:
        try:
            text.encode()  # the command line gives bytes that are not UTF-8 as lone surrogates
        except UnicodeEncodeError as error:
            message = f"the text is not valid Unicode at character {error.start}: write it in UTF-8"
            raise InputError(message) from error
        if limit is not None:
            self._check_beginning(text, limit)
        return self._ids(text, add_special_tokens=add_special_tokens)

    def _check_beginning(self, text: str, limit: int) -> None:
        """Refuse a text whose beginning has too many tokens. The part where it is cut makes a difference of few."""
        n_characters = _CHARACTERS_PER_TOKEN * limit
        while n_characters < len(text):
            try:
                n_tokens = len(self._ids(text[:n_characters], add_special_tokens=False))
            except InputError:  # the part of a word at the cut may have no token, where the word has one
                return
            if n_tokens > limit + limit // 8 + 100:
                raise TooManyTokensError(n_tokens, limit)
            n_characters *= 2

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with refuse_failures(f"{self._place}the tokenizer cannot encode the text"):
            return self.backend.encode(text, add_special_tokens=add_special_tokens).ids


class StreamDecoder:
    """Decodes ids one at a time. The results of `push` and `flush`, joined, are `tokenizer.decode` of all ids.

    A token's text depends on few tokens before it (sentencepiece drops the space of the very first token). So a short
    window is decoded with the new token and without it, and the difference is shown. Text that the next token may
    change is held back: an incomplete character, and a run of byte-fallback tokens. `tokenizers` decodes such a run as
    a whole: one invalid byte turns all of it into U+FFFD.
    """

    # A window may start inside of a character. UTF-8 is in step again after three bytes, so after three tokens.
    _CONTEXT = 4

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that were returned

    def push(self, token_id: int) -> str:
        """Take the next id; returns the text that can be shown now, often none."""
        token = self._tokenizer.backend.id_to_token(token_id)
        if token is None or token_id in self._tokenizer.special_ids:
            return ""  # decode() drops it, so it must not serve as context either
        self._window.append(token_id)
        if _BYTE_PIECE.fullmatch(token):
            return ""
        piece = self._complete_text()[self._shown :]
        del self._window[: -self._CONTEXT]
        self._shown = len(self._complete_text())
        return piece

    def flush(self) -> str:
        """There are no more ids: return the rest."""
        piece = self._tokenizer.decode(self._window)[self._shown :]
        self._window, self._shown = [], 0
        return piece

    def _complete_text(self) -> str:
        """The window's text without a U+FFFD at its end, which may be an incomplete character."""
        return self._tokenizer.decode(self._window).removesuffix("\N{REPLACEMENT CHARACTER}")

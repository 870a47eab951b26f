"""The engine: a loaded model that runs batches of prompts, given as token ids, and gives back text.

The commands, the Python API and conversations all generate through it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

from mygpt.engine.detokenizer import Completion, Timing, complete
from mygpt.engine.drafts import Drafter
from mygpt.engine.scheduler import decode
from mygpt.engine.sequence import Sequence
from mygpt.engine.speculation import ModelDrafter, make_drafter
from mygpt.errors import InputError
from mygpt.loading.load import LoadedModel
from mygpt.model.config import Config
from mygpt.model.kv_cache import KVCache
from mygpt.options import Sampling, check_one_drafter
from mygpt.text.prompt_encoder import PromptEncoder
from mygpt.text.tokenizer import Tokenizer


class Engine:
    """Runs sequences on a loaded model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    @property
    def config(self) -> Config:
        """The model's architecture."""
        return self.loaded.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; InputError where the checkpoint holds no tokenizer."""
        return self.prompt_encoder.tokenizer

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """Prompts to ids; InputError where the checkpoint holds no tokenizer."""
        if self.loaded.prompt_encoder is None:
            raise InputError(
                "the checkpoint holds no tokenizer: text needs its tokenizer.json beside the weights"
            )
        return self.loaded.prompt_encoder

    def batch(
        self,
        prompts: SequenceOf[list[int]],
        sampling: Sampling | SequenceOf[Sampling],
        max_new_tokens: int | SequenceOf[int],
        *,
        seeds: SequenceOf[int],
        stop: SequenceOf[str] | SequenceOf[SequenceOf[str]] = (),
        cache: KVCache | None = None,
        drafter: Drafter | None = None,
    ) -> Batch:
        """Several prompts that are generated for together; nothing is computed before the batch is read.

        Args:
            prompts: token ids of each.
            sampling: how tokens are chosen, for all prompts or for each.
            max_new_tokens: the most tokens of an answer, for all prompts or for each; the context may leave fewer.
            seeds: of each prompt's random numbers.
            stop: strings that end an answer, for all prompts or a list for each.
            cache: may hold the beginnings of the prompts; by default there is a new one, of the size that is needed.
            drafter: one that `self.drafter` made; it may serve batch after batch.

        Raises:
            InputError: a prompt is empty, too long or of other ids than the model's; a setting is out of range.
        """
        count = len(prompts)
        settings = [sampling] * count if isinstance(sampling, Sampling) else sampling
        limits = [max_new_tokens] * count if isinstance(max_new_tokens, int) else max_new_tokens
        stops = _stops_of_each(stop, count)
        if limits and min(limits) < 1:
            raise InputError(f"--max_new_tokens must be 1 or above, it is {min(limits)}")
        sequences = [
            Sequence(prompt, min(limit, self.check_prompt(prompt)), seed, own, self.loaded.stop_ids)
            for prompt, limit, seed, own in zip(prompts, limits, seeds, settings, strict=True)
        ]
        prompt_encoder = self.loaded.prompt_encoder
        tokenizer, style_stops = (
            (prompt_encoder.tokenizer, prompt_encoder.stop_strings) if prompt_encoder else (None, ())
        )
        completions = [
            Completion(sequence, tokenizer, [*own, *style_stops])
            for sequence, own in zip(sequences, stops, strict=True)
        ]
        return Batch(self.loaded, completions, cache, drafter)

    def drafter(self, speculate: str | None) -> Drafter | None:
        """What proposes tokens: the draft model where one was loaded, what `--speculate` names, or nothing."""
        draft = self.loaded.draft
        check_one_drafter(draft, speculate)
        return make_drafter(speculate) if draft is None else ModelDrafter(draft.model, self.loaded.vocab_size)

    def check_ids(self, ids: SequenceOf[int]) -> None:
        """Raise InputError where an id is outside of the model's vocabulary."""
        if bad := [token for token in ids if not 0 <= token < self.config.vocab_size]:
            raise InputError(
                f"token id {bad[0]} is outside of the model's vocabulary of {self.config.vocab_size} ids"
            )

    def check_prompt(self, prompt: list[int]) -> int:
        """Tokens that the context leaves for the answer.

        Raises:
            InputError: the prompt is empty, too long or of other ids than the model's.
        """
        self.check_ids(prompt)  # a tokenizer may be another model's
        context = self.config.context_length
        if not prompt:
            raise InputError("the prompt is empty; give at least one token")
        if len(prompt) >= context:
            raise InputError(
                f"the prompt of {len(prompt)} tokens does not fit the model's context of {context} tokens "
                "with room for an answer; shorten it"
            )
        return context - len(prompt)


class Batch:
    """Several completions being generated together; iterate over it for (row, piece of text)."""

    def __init__(
        self,
        loaded: LoadedModel,
        completions: SequenceOf[Completion],
        cache: KVCache | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.completions = list(completions)
        self.timing = Timing()
        self._loaded = loaded
        self._cache = cache
        self._drafter = drafter

    def __iter__(self) -> Iterator[tuple[int, str]]:
        sequences = [completion.sequence for completion in self.completions]
        model, vocab_size = self._loaded.model, self._loaded.vocab_size
        steps = decode(model, sequences, vocab_size=vocab_size, cache=self._cache, drafter=self._drafter)
        yield from complete(steps, self.completions, self.timing)


def _stops_of_each(stop: SequenceOf[str] | SequenceOf[SequenceOf[str]], count: int) -> list[list[str]]:
    if isinstance(stop, str):
        raise InputError(f"stop must be a list of texts; write [{stop!r}]")
    shared = [text for text in stop if isinstance(text, str)]
    return [shared] * count if len(shared) == len(stop) else [list(own) for own in stop]


def pick_seed(seed: int | None) -> int:
    """The given seed, or one drawn at random (32 bits, so that it is easily typed again).

    Raises:
        InputError: it is out of range.
    """
    if seed is None:
        return random.SystemRandom().getrandbits(32)
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed must be between 0 and 2^63 - 1, it is {seed}")
    return seed

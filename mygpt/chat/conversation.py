"""A conversation. The prompt of each turn is the whole history; the cache holds most of it already."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from mygpt.chat.transcript import read_transcript, write_transcript
from mygpt.chat.turn import Turn
from mygpt.engine.detokenizer import draft_statistics
from mygpt.engine.engine import Batch, Engine, pick_seed
from mygpt.engine.prefill import keep_common_prefix
from mygpt.engine.repetition import repeated_period
from mygpt.errors import ContextOverflowError, InputError, did_you_mean
from mygpt.model.kv_cache import KVCache
from mygpt.options import ChatOptions, Sampling, SamplingOptions, check_types
from mygpt.text.chat_template import Message
from mygpt.text.prompt_encoder import PromptEncoder
from mygpt.text.prompt_styles import PLAIN
from mygpt.text.tokenizer import TooManyTokensError


class Conversation:
    """A conversation with a model.

    `messages` is the history, oldest first, and may be read at any time. If it outgrows the context, the model sees
    only the system message and the newest turns: the `n_dropped` oldest messages stay in the history, but the model
    does not see them.
    `starts_in_reasoning`: the template ends the prompt with `<think>`, so the last answer starts inside of it.
    `interruptible` makes a context around what takes long. A Ctrl-C that is handled there alone stops only that.
    """

    def __init__(
        self,
        engine: Engine,
        options: ChatOptions,
        sampling: SamplingOptions,
        messages: Sequence[Message] = (),
    ) -> None:
        """A model without a chat template gets the plain style."""
        self.options = options
        self._sampling = sampling  # what was asked for; the rest is the model's, and /model changes it
        self.messages: list[dict[str, Any]] = [dict(message) for message in messages]
        if options.sys_prompt is not None:
            self.system = options.sys_prompt
        self.last: Turn | None = None
        self.starts_in_reasoning = False
        self.interruptible: Callable[[], AbstractContextManager[None]] = nullcontext
        self._seed = pick_seed(options.seed)
        self.use(engine)

    def use(self, engine: Engine) -> None:
        """Go on with another model: its template renders the history, and nothing that was computed is kept.

        Raises:
            InputError: it has no tokenizer, or not the drafts of the settings. Nothing is changed then.
        """
        encoder = engine.prompt_encoder
        drafter = engine.drafter(self.options.speculate)  # a model's has a cache of its own, worth keeping
        self._engine: Engine | None = engine
        self._drafter = drafter
        self._recommended = engine.loaded.generation.sampling  # kept by `release`: /save writes all settings
        self.prompt_encoder = encoder if encoder.is_chat else PromptEncoder(encoder.tokenizer, PLAIN)
        self.n_dropped = 0
        self._cache: KVCache | None = None
        self._held: list[int] = []  # the ids that the cache holds

    def release(self) -> None:
        """Let go of the model, so that its memory is free for the one that is given to `use` next."""
        self._engine = self._drafter = self._cache = None

    @property
    def engine(self) -> Engine:
        """The model; InputError where it was released, and no other one is in its place."""
        if self._engine is None:
            raise InputError("there is no model now; load one with /model NAME")
        return self._engine

    @property
    def system(self) -> str | None:
        """The system message; setting it changes what the next turn begins with."""
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        if self.system is not None:
            del self.messages[0]
        if text is not None:
            self.messages.insert(0, {"role": "system", "content": text})

    def say(self, text: str) -> Generator[str, None, None]:
        """Say something; yields the answer piece by piece. It is in the history as far as it was read.

        Closing the generator ends the answer. Where nothing of it was read yet, the message is taken back.

        Raises:
            InputError: the template refuses it, or it does not fit the context. Nothing is changed then.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            yield from self._answer()
        finally:
            if self.messages[-1]["role"] == "user":  # no answer was begun
                self.messages.pop()

    def regenerate(self) -> Generator[str, None, None]:
        """Another answer to the last message, in place of the one it got.

        Raises:
            InputError: nothing was answered yet.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise InputError("there is no answer yet to replace; say something first")
        old = self.messages.pop()
        try:
            yield from self._answer()
        finally:
            if self.messages[-1]["role"] == "user":
                self.messages.append(old)

    def undo(self) -> str | None:
        """Take the last turn back; returns what the user said in it, None where there is none."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index]["role"] == "user":
                text: str = self.messages[index]["content"]
                del self.messages[index:]
                self.n_dropped = 0  # there may be room again
                return text
        return None

    def clear(self) -> None:
        """Forget every turn; the system message stays."""
        self.messages = self.messages[: self.system is not None]
        self.n_dropped = 0

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen: as was asked for, else as the model's authors recommend."""
        return self._sampling.over(self._recommended)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by its option's name; the system message is among the messages."""
        values = {**asdict(self.options), **asdict(self.sampling)}
        del values["sys_prompt"]
        return values

    def change(self, **settings: Any) -> None:
        """Change settings, by their options' names.

        Raises:
            InputError: there is no such setting, or the value is of a wrong type or out of range.
        """
        try:
            self._change(settings)
        except InputError as error:
            raise self._named(error) from error

    def _named(self, error: InputError) -> InputError:
        """The error with the names of settings, where its text has those of the command line's options."""
        return InputError(re.sub(r"--(\w+)", lambda m: m[1] if m[1] in self.settings else m[0], str(error)))

    def _change(self, settings: dict[str, Any]) -> None:
        if unknown := settings.keys() - self.settings.keys():
            hint = did_you_mean(min(unknown), self.settings) or f"; there are {', '.join(self.settings)}"
            raise InputError(f"there is no setting {min(unknown)!r}{hint}")
        of_sampling = {field.name for field in fields(SamplingOptions)}
        sampling = {name: value for name, value in settings.items() if name in of_sampling}
        options = {name: value for name, value in settings.items() if name not in of_sampling}
        check_types(SamplingOptions, sampling)
        check_types(ChatOptions, options)
        new_sampling, new_options = replace(self._sampling, **sampling), replace(self.options, **options)
        if "speculate" in options:
            self._drafter = self.engine.drafter(new_options.speculate)
        self._sampling, self.options = new_sampling, new_options
        if "seed" in options:
            self._seed = pick_seed(new_options.seed)

    def save(self, path: str | Path) -> None:
        """Write messages and settings to a file, whole or not at all; InputError where that cannot be."""
        write_transcript(Path(path), self.messages, self.settings)

    def load(self, path: str | Path) -> None:
        """Go on with a saved conversation and its settings; InputError, and nothing changed, where that cannot be."""
        with self.interruptible():
            messages, settings = read_transcript(Path(path))
        try:
            self.change(**settings)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self.messages, self.n_dropped = messages, 0

    def _answer(self) -> Generator[str, None, None]:
        with self.interruptible():
            ids = self._fit()
        ending = self.engine.tokenizer.backend.decode(ids[-16:], skip_special_tokens=False)
        self.starts_in_reasoning = ending.rstrip().endswith("<think>")
        if self._cache is None:
            self._cache = self.engine.loaded.model.allocate_cache(1, len(ids))
        held, self._held = self._held, []  # whatever interrupts this: nothing is taken for held that is not
        reused = keep_common_prefix(self.engine.loaded.model, self._cache, held, ids)
        batch = self.engine.batch(
            [ids],
            self.sampling,
            self.options.max_new_tokens
            or self.engine.loaded.generation.max_new_tokens
            or self.engine.config.context_length,
            seeds=[self._seed],
            stop=[*self.options.stop, *self.prompt_encoder.stop_strings],
            cache=self._cache,
            drafter=self._drafter,
        )
        self._seed += 1  # another answer to the same is another one
        pieces = iter(batch)
        try:
            while (piece := self._next(pieces)) is not None:
                self._guard(batch)
                yield piece
        finally:
            self._keep(batch, reused)

    def _next(self, pieces: Iterator[tuple[int, str]]) -> str | None:
        with self.interruptible():
            return next(pieces, (0, None))[1]

    def _guard(self, batch: Batch) -> None:
        """End an answer that repeats itself without end."""
        sequence = batch.completions[0].sequence
        if self.options.repetition_guard and not sequence.is_finished and repeated_period(sequence.new_ids):
            sequence.finish_reason = "repetition"

    def _keep(self, batch: Batch, reused: int) -> None:
        """Take the answer, and what was computed for it, as far as it got."""
        assert self._cache is not None
        completion, sequence = batch.completions[0], batch.completions[0].sequence
        ids = sequence.ids
        interrupted = sequence.finish_reason is None
        if interrupted and (not sequence.new_ids or any(self.engine.config.windows)):
            self._cache.truncate([0])  # the step that was cut short may have overwritten part of a window
        self._held = ids[: self._cache.lengths[0]]
        if interrupted and not completion.text:  # nothing was said
            return
        self.messages.append({"role": "assistant", "content": completion.text})
        self.last = Turn(
            len(sequence.prompt_ids),
            reused,
            sequence.new_ids,
            batch.timing,
            draft_statistics([sequence]),
            sequence.finish_reason,
            self.engine.config.context_length - len(ids),
            sequence.seed,
        )

    def _fit(self) -> list[int]:
        """The ids of the history, or of as much of it as leaves room for an answer."""
        context = self.engine.config.context_length
        head = self.messages[: self.system is not None]
        room = min(self.options.max_new_tokens or context, context // 8)
        dropped = self.n_dropped
        while True:
            try:
                ids = self.prompt_encoder.encode(
                    [*head, *self.messages[len(head) + dropped :]],
                    think=self.options.think,
                    template_kwargs=self.options.chat_template_kwargs,
                    limit=context,
                )
                left, count = context - len(ids), str(len(ids))
            except TooManyTokensError as error:
                ids, left, count = [], context - error.n_tokens, f"more than {error.n_tokens}"
            except InputError as error:
                raise self._named(error) from error
            more = self._without_oldest_turn(len(head), dropped)
            if left >= room or (more is None and left > 0):
                self.n_dropped = dropped
                return ids
            if self.options.on_overflow == "error":
                raise ContextOverflowError(
                    f"the conversation of {count} tokens leaves no room for an answer in the model's context of "
                    f"{context}; begin anew, or use --on_overflow drop"
                )
            if more is None:
                raise InputError(
                    f"the message does not fit: with what stands around it, it has {count} tokens and the "
                    f"model's context {context}; shorten it"
                )
            dropped = more
            room = context // 4  # some more at once: each time, all that is left must be computed anew

    def _without_oldest_turn(self, start: int, dropped: int) -> int | None:
        """How many messages are unseen with one turn less, None where the last one is all there is."""
        for index in range(start + dropped + 1, len(self.messages)):
            if self.messages[index]["role"] == "user":
                return index - start
        return None

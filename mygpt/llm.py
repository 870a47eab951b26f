"""The Python API: load a model, generate text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mygpt.engine.decode import decode
from mygpt.engine.detokenizer import Completion, Timing, complete
from mygpt.engine.sequence import MAX_DRAFT, Drafter, Generation
from mygpt.engine.speculation import ModelDrafter, make_drafter
from mygpt.errors import InputError
from mygpt.loading.load import Loaded, load
from mygpt.model.config import Config
from mygpt.model.kv_cache import KVCache
from mygpt.options import ChatOptions, LoadOptions, Sampling, check_one_drafter
from mygpt.text.chat_template import Prompter
from mygpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mygpt.chat.conversation import Conversation

# One user message, or a conversation: dicts of "role" and "content".
Prompt = str | Sequence[Mapping[str, Any]]


class LLM:
    """A loaded model.

    Every generating method takes the options of `mygpt generate`: `max_new_tokens`, `temperature`, `top_k`,
    `top_p`, `min_p`, `repetition_penalty`, `seed` and, where text comes out, `stop`, `sys_prompt` and
    `raw_prompt`; `speculate` too. All raise InputError, a ValueError, for what cannot be used.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    @property
    def config(self) -> Config:
        """The model's architecture."""
        return self.loaded.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; InputError where the checkpoint holds no tokenizer."""
        return self.prompter.tokenizer

    @property
    def prompter(self) -> Prompter:
        """Prompts to ids; InputError where the checkpoint holds no tokenizer."""
        if self.loaded.prompter is None:
            raise InputError(
                "the checkpoint holds no tokenizer: text needs its tokenizer.json beside the weights"
            )
        return self.loaded.prompter

    def peak_memory(self) -> list[int]:
        """The most bytes that each device has held so far; on the CPU, each process."""
        return self.loaded.peak_memory()

    @classmethod
    def load(cls, checkpoint: str | None = None, **options: Any) -> LLM:
        """Load a local folder, a `.gguf` file or a Hub repository; without one, the default model.

        Options are those of the command line: `precision`, `quantize`, `accelerator`, `devices`, `compile`,
        `draft`, `prompt_style`, `access_token`, `revision`.

        Raises:
            InputError: whatever of the checkpoint or the options cannot be used.
            WorkerFinished: in each process but the first, once that one has ended; it ends a script quietly.
        """
        return cls(load(checkpoint, LoadOptions(**options)))

    def generate(self, prompt: Prompt, **options: Any) -> str:
        """The answer to a prompt: the new text only."""
        return "".join(self.stream(prompt, **options))

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 50,
        stop: Sequence[str] = (),
        seed: int | None = None,
        sys_prompt: str | None = None,
        raw_prompt: bool = False,
        speculate: str | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """The answer to a prompt, piece by piece as it is decoded.

        A string is one user message and goes through the chat template, where the model has one;
        `raw_prompt=True` takes it as it is. A list is a conversation.
        """
        ids = self.encode(prompt, sys_prompt=sys_prompt, raw_prompt=raw_prompt)
        batch = self.batch(
            [ids],
            Sampling(**sampling),
            max_new_tokens,
            seeds=[self.seed(seed)],
            stop=stop,
            drafter=self.drafter(speculate),
        )
        return (piece for _, piece in batch)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] = (),
        *,
        sys_prompt: str | None = None,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        on_overflow: str = "drop",
        speculate: str | None = None,
        **sampling: Any,
    ) -> Conversation:
        """A conversation, which goes on after `messages`; the options are those of `mygpt chat`."""
        from mygpt.chat.conversation import Conversation

        options = ChatOptions(sys_prompt, max_new_tokens, seed, list(stop), on_overflow, speculate)
        return Conversation(self, options, Sampling(**sampling), messages)

    @torch.no_grad()  # not inference_mode: its tensors could not be compared with ones that have a gradient
    def logits(self, token_ids: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """Logits of whole sequences, without a cache: (B, T) int64 to (B, T, vocab_size) float32 on the CPU."""
        ids = torch.as_tensor(token_ids, dtype=torch.long)
        if ids.ndim != 2 or not ids.numel():
            raise InputError(f"token_ids must be (batch, tokens), not {tuple(ids.shape)}")
        if ids.shape[1] > self.config.context_length:
            raise InputError(f"{ids.shape[1]} tokens do not fit the context of {self.config.context_length}")
        self._check_ids(ids.flatten().tolist())
        logits: Tensor = self.loaded.model(ids)
        return logits.float().cpu()

    def generate_ids(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int = 50,
        seed: int | None = None,
        speculate: str | None = None,
        **sampling: Any,
    ) -> list[int]:
        """The new ids after a prompt of ids, no template and no text; an end token is the last of them."""
        drafter, seeds = self.drafter(speculate), [self.seed(seed)]
        batch = self.batch(
            [list(token_ids)], Sampling(**sampling), max_new_tokens, seeds=seeds, drafter=drafter
        )
        for _ in batch:
            pass
        return batch.completions[0].generation.new_ids

    def encode(self, prompt: Prompt, *, sys_prompt: str | None = None, raw_prompt: bool = False) -> list[int]:
        """A prompt's ids, chat template and all."""
        return self.prompter.encode(prompt, sys_prompt=sys_prompt, raw=raw_prompt)

    def batch(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        max_new_tokens: int,
        *,
        seeds: Sequence[int],
        stop: Sequence[str] = (),
        cache: KVCache | None = None,
        drafter: Drafter | None = None,
    ) -> Batch:
        """Start generating for several prompts at once; nothing is computed before the batch is read.

        `cache` may hold the beginnings of the prompts; by default there is a new one, of the size that is needed.
        `drafter` is one that `self.drafter` made; it may serve batch after batch.
        """
        if max_new_tokens < 1:
            raise InputError(f"--max_new_tokens must be 1 or above, it is {max_new_tokens}")
        if isinstance(stop, str):
            raise InputError(f"stop must be a list of texts; write [{stop!r}]")
        for prompt in prompts:
            self._check_ids(prompt)  # a tokenizer may be another model's
        limits = [min(max_new_tokens, self._room(prompt)) for prompt in prompts]
        generations = [Generation(*row) for row in zip(prompts, limits, seeds, strict=True)]
        prompter = self.loaded.prompter
        tokenizer, style_stops = (prompter.tokenizer, prompter.stop_strings) if prompter else (None, ())
        completions = [Completion(g, tokenizer, [*stop, *style_stops]) for g in generations]
        return Batch(self.loaded, completions, sampling, cache, drafter)

    def drafter(self, speculate: str | None) -> Drafter | None:
        """What proposes tokens: the draft model where one was loaded, what `--speculate` names, or nothing."""
        draft = self.loaded.draft
        check_one_drafter(draft, speculate)
        if draft is None:
            return make_drafter(speculate)
        return ModelDrafter(draft.model, draft.model.config, self.loaded.vocab_size)

    @staticmethod
    def seed(seed: int | None) -> int:
        """The given seed, or one drawn at random (32 bits, so that it is easily typed again)."""
        if seed is None:
            return random.SystemRandom().getrandbits(32)
        if not 0 <= seed < 2**63:
            raise InputError(f"--seed must be between 0 and 2^63 - 1, it is {seed}")
        return seed

    def _room(self, prompt: list[int]) -> int:
        """Tokens that the context leaves for the answer."""
        context = self.config.context_length
        if not prompt:
            raise InputError("the prompt is empty; give at least one token")
        if len(prompt) >= context:
            raise InputError(
                f"the prompt of {len(prompt)} tokens does not fit the model's context of {context} tokens "
                "with room for an answer; shorten it"
            )
        return context - len(prompt)

    def _check_ids(self, ids: Sequence[int]) -> None:
        if bad := [token for token in ids if not 0 <= token < self.config.vocab_size]:
            raise InputError(
                f"token id {bad[0]} is outside of the model's vocabulary of {self.config.vocab_size} ids"
            )


class Batch:
    """Several completions being generated together; iterate over it for (row, piece of text)."""

    def __init__(
        self,
        loaded: Loaded,
        completions: Sequence[Completion],
        sampling: Sampling,
        cache: KVCache | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.completions = list(completions)
        self.timing = Timing()
        self._loaded = loaded
        self._sampling = sampling
        self._cache = cache
        self._drafter = drafter

    def __iter__(self) -> Iterator[tuple[int, str]]:
        generations = [completion.generation for completion in self.completions]
        loaded, cache = self._loaded, self._cache
        if cache is None:
            slots = max(len(g.prompt_ids) + g.max_new_tokens for g in generations)
            slots += MAX_DRAFT if self._drafter else 0  # which may stand past a finished sequence's end
            cache = loaded.model.allocate_cache(len(generations), slots)
        steps = decode(
            loaded.model,
            generations,
            cache,
            self._sampling,
            stop_ids=loaded.stop_ids,
            vocab_size=loaded.vocab_size,
            drafter=self._drafter,
        )
        yield from complete(steps, self.completions, loaded.stop_ids, self.timing)

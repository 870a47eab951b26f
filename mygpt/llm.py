"""The Python API: load a model, generate text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mygpt.engine.engine import Engine, pick_seed
from mygpt.errors import InputError
from mygpt.loading.load import LoadedModel, load
from mygpt.model.config import Config
from mygpt.options import ChatOptions, LoadOptions, SamplingOptions
from mygpt.text.prompt_encoder import PromptEncoder
from mygpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mygpt.chat.conversation import Conversation

# One user message, or a conversation: dicts of "role" and "content".
Prompt = str | Sequence[Mapping[str, Any]]


class LLM:
    """A loaded model.

    Every generating method takes the options of `mygpt generate`: `max_new_tokens`, `temperature`, `top_k`,
    `top_p`, `min_p`, `repetition_penalty`, `seed` and, where text comes out, `stop`, `sys_prompt`, `think`,
    `chat_template_kwargs` and `raw_prompt`; `speculate` too. What is not given is as the model's authors recommend
    (`loaded.generation`). All raise InputError, a ValueError, for what cannot be used.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.engine = Engine(loaded)

    @property
    def loaded(self) -> LoadedModel:
        """The model, and what belongs to it."""
        return self.engine.loaded

    @property
    def config(self) -> Config:
        """The model's architecture."""
        return self.engine.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; InputError where the checkpoint holds no tokenizer."""
        return self.engine.tokenizer

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """Prompts to ids; InputError where the checkpoint holds no tokenizer."""
        return self.engine.prompt_encoder

    def peak_memory(self) -> list[int]:
        """The most bytes that each device has held so far; on the CPU, each process."""
        return self.loaded.peak_memory()

    @classmethod
    def load(cls, checkpoint: str | None = None, **options: Any) -> LLM:
        """Load a local folder, a `.gguf` file or a Hub repository; without one, the default model.

        Options are those of the command line: `precision`, `quantize`, `accelerator`, `devices`, `compile`,
        `draft`, `prompt_style`, `access_token`, `revision`, `context_length`.

        Raises:
            InputError: whatever of the checkpoint or the options cannot be used.
            WorkerFinished: in each process but the first of those that torchrun or SLURM started, once the first has
                ended; it ends a script quietly. Processes that mygpt itself starts do not run the script.
        """
        return cls(load(checkpoint, LoadOptions(**options)))

    def generate(self, prompt: Prompt, **options: Any) -> str:
        """The answer to a prompt: the new text only."""
        return "".join(self.stream(prompt, **options))

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        sys_prompt: str | None = None,
        raw_prompt: bool = False,
        think: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        speculate: str | None = None,
        **sampling: Any,
    ) -> Iterator[str]:
        """The answer to a prompt, piece by piece as it is decoded.

        A string is one user message and goes through the chat template, where the model has one;
        `raw_prompt=True` takes it as it is. A list is a conversation.
        """
        ids = self.encode(
            prompt,
            sys_prompt=sys_prompt,
            raw_prompt=raw_prompt,
            think=think,
            chat_template_kwargs=chat_template_kwargs,
        )
        generation, chat = self.loaded.generation, self.prompt_encoder.is_chat and not raw_prompt
        batch = self.engine.batch(
            [ids],
            SamplingOptions(**sampling).over(generation.sampling),
            generation.answer_tokens(max_new_tokens, chat=chat),
            seeds=[pick_seed(seed)],
            stop=stop,
            drafter=self.engine.drafter(speculate),
        )
        return (piece for _, piece in batch)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]] = (),
        *,
        stop: Sequence[str] = (),
        **options: Any,
    ) -> Conversation:
        """A conversation, which goes on after `messages`; the options are those of `mygpt chat`."""
        from mygpt.chat.conversation import Conversation

        of_sampling = {name: options.pop(name) for name in vars(SamplingOptions()) if name in options}
        chat_options = ChatOptions(stop=list(stop), **options)
        return Conversation(self.engine, chat_options, SamplingOptions(**of_sampling), messages)

    @torch.no_grad()  # not inference_mode: its tensors could not be compared with ones that have a gradient
    def logits(self, token_ids: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """Logits of whole sequences, without a cache: (B, T) int64 to (B, T, vocab_size) float32 on the CPU."""
        ids = torch.as_tensor(token_ids, dtype=torch.long)
        if ids.ndim != 2 or not ids.numel():
            raise InputError(f"token_ids must be (batch, tokens), not {tuple(ids.shape)}")
        if ids.shape[1] > self.config.context_length:
            raise InputError(f"{ids.shape[1]} tokens do not fit the context of {self.config.context_length}")
        self.engine.check_ids(ids.flatten().tolist())
        logits: Tensor = self.loaded.model(ids)
        return logits.float().cpu()

    def generate_ids(
        self,
        token_ids: Sequence[int],
        *,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        speculate: str | None = None,
        **sampling: Any,
    ) -> list[int]:
        """The new ids after a prompt of ids, no template and no text; an end token is the last of them."""
        drafter, seeds = self.engine.drafter(speculate), [pick_seed(seed)]
        generation = self.loaded.generation
        batch = self.engine.batch(
            [list(token_ids)],
            SamplingOptions(**sampling).over(generation.sampling),
            generation.answer_tokens(max_new_tokens, chat=False),
            seeds=seeds,
            drafter=drafter,
        )
        for _ in batch:
            pass
        return batch.completions[0].sequence.new_ids

    def encode(
        self,
        prompt: Prompt,
        *,
        sys_prompt: str | None = None,
        raw_prompt: bool = False,
        think: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """A prompt's ids, chat template and all; InputError for a prompt far longer than the model's context."""
        return self.prompt_encoder.encode(
            prompt,
            sys_prompt=sys_prompt,
            raw=raw_prompt,
            think=think,
            template_kwargs=chat_template_kwargs,
            limit=self.config.context_length,
        )

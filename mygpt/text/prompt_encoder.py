"""From prompts and messages to token ids, through a chat template or as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mygpt.errors import InputError
from mygpt.json_files import is_file, read_start
from mygpt.text.chat_template import ChatTemplate, Message, find_chat_template
from mygpt.text.prompt_styles import REDPAJAMA, STABLELM, STYLE_NAMES, STYLES, PromptStyle
from mygpt.text.template_process import end_spare
from mygpt.text.tokenizer import Tokenizer

_CARD_BYTES = 2**20  # of a model card; its head tells the format of prompts

# Names of the switch that lets a model reason: Qwen3's, GLM's and SmolLM3's, then DeepSeek's and Granite's.
THINKING_SWITCHES = ("enable_thinking", "thinking")


class PromptEncoder:
    """Turns prompts and messages into token ids."""

    def __init__(self, tokenizer: Tokenizer, style: PromptStyle | None) -> None:
        """`style` None makes every prompt raw."""
        self.style = style
        self.tokenizer = tokenizer

    @classmethod
    def choose(cls, tokenizer: Tokenizer, path: Path | None, name: str | None = None) -> PromptEncoder:
        """The encoder with the style `name` (`--prompt_style`), or with the style of the repository.

        The latter is its own template, else the named style that its vocabulary or model card shows, else raw.

        Args:
            tokenizer: the repository's.
            path: its folder, or the GGUF file.
            name: one of `STYLE_NAMES`.

        Raises:
            InputError: there is no such style, or `name` is "template" and the repository has none.
        """
        if name is not None and name not in STYLE_NAMES:
            raise InputError(f"unknown --prompt_style {name!r}: choose one of {', '.join(STYLE_NAMES)}")
        if name == "raw":
            return cls(tokenizer, None)
        if name in STYLES:
            return cls(tokenizer, STYLES[name])
        if (found := find_chat_template(path, tokenizer)) is not None:
            return cls(tokenizer, PromptStyle("template", found[0], origin=found[1]))
        if name == "template":
            others = ", ".join(STYLE_NAMES[1:])
            raise InputError(f"the model ships no chat template: choose another --prompt_style of {others}")
        return cls(tokenizer, _recognize(tokenizer, path))

    def prepare(self) -> None:
        """Begin to compile the template, in the background; without one, end the process that waits for it."""
        if self.style is not None:
            _ = self._template
        else:
            end_spare()

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through a template."""
        return self.style is not None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end the style's answers."""
        return self.style.stop_strings if self.style else ()

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end the style's answers, besides the model's own end tokens."""
        ids = map(self.tokenizer.token_to_id, self.style.stop_tokens if self.style else ())
        return tuple(token_id for token_id in ids if token_id is not None)

    def encode(
        self,
        prompt: str | Sequence[Message],
        *,
        sys_prompt: str | None = None,
        raw: bool = False,
        think: bool | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> list[int]:
        """The ids of one user message or of a conversation, up to where the answer begins.

        With `raw`, and for a model without a template, a text is taken as it is. A template writes its special
        tokens itself, so none are added to it. `think` sets its switch for reasoning, `template_kwargs` any of its
        variables. `limit` is the model's context: a prompt that goes far over it is not encoded.

        Raises:
            TooManyTokensError: the prompt goes far over `limit`; where it goes over by less, its ids are returned.
            InputError: the prompt is empty or malformed, or an option does not fit it.
        """
        for text, name in ((prompt, "the prompt"), (sys_prompt, "--sys_prompt")):
            if isinstance(text, str):
                _check_unicode(text, name)
        if raw or self.style is None:
            self._check_raw(prompt, sys_prompt, raw)
            if think is not None or template_kwargs:
                name = "--think" if think is not None else "--chat_template_kwargs"
                raise InputError(
                    f"{name} is for chat templates, and this prompt goes through none; leave it out"
                )
            ids = self.tokenizer.encode_prompt(str(prompt), limit=limit)
        else:
            messages = _messages(prompt, sys_prompt)
            variables = self.template_variables(think, template_kwargs or {})
            text = self._template.render(messages, special_tokens=self.tokenizer.special_tokens, **variables)
            encode = self.tokenizer.encode_prompt if self.style.adds_special_tokens else self.tokenizer.encode
            ids = encode(text, limit=limit)
        if not ids:
            raise InputError("the prompt is empty: give it some text")
        return ids

    @cached_property
    def _template(self) -> ChatTemplate:
        """Compiled when it is first needed: raw prompts work with a broken template too."""
        assert self.style is not None
        return ChatTemplate(self.style.template, self.style.origin)

    def template_variables(self, think: bool | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """The variables that `think` and `template_kwargs` of `encode` set.

        Raises:
            InputError: the template has no such variable.
        """
        known = self._template.variables - {
            "messages",
            "add_generation_prompt",
            *self.tokenizer.special_tokens,
        }
        for name in given.keys() - known:
            raise InputError(
                f"--chat_template_kwargs: the model's chat template has no variable {name!r}; it has "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        if think is None:
            return dict(given)
        if switch := next((name for name in THINKING_SWITCHES if name in known), None):
            return {**given, switch: think}
        effort = """, but reasoning_effort: --chat_template_kwargs '{"reasoning_effort": "low"}' sets it"""
        remedy = effort if "reasoning_effort" in known else "; leave it out, or set it to null"
        raise InputError(f"--think: the model's chat template has no switch for it{remedy}")

    def _check_raw(self, prompt: str | Sequence[Message], sys_prompt: str | None, raw: bool) -> None:
        remedy = (
            "drop --raw_prompt" if raw and self.style else f"choose a --prompt_style of {', '.join(STYLES)}"
        )
        why = "a raw prompt has no chat template" if raw else "the model has no chat template"
        if sys_prompt is not None:
            raise InputError(f"--sys_prompt cannot be used, {why}: {remedy}, or drop --sys_prompt")
        if not isinstance(prompt, str):
            raise InputError(f"a list of messages cannot be used, {why}: {remedy}, or give a text")


def _recognize(tokenizer: Tokenizer, path: Path | None) -> PromptStyle | None:
    """The named style of a repository without a template, if its vocabulary or model card shows one."""
    if all(tokenizer.token_to_id(token) is not None for token in ("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>")):
        return STABLELM
    if path and is_file(path / "README.md"):
        card = read_start(path / "README.md", _CARD_BYTES)
        if b"<human>:" in card and b"<bot>:" in card:
            return REDPAJAMA
    return None


def _messages(prompt: str | Sequence[Message], sys_prompt: str | None) -> list[Message]:
    messages = _checked([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    if sys_prompt is None:
        return messages
    if any(message["role"] == "system" for message in messages):
        raise InputError("the messages hold a system message already: drop it, or --sys_prompt")
    return [{"role": "system", "content": sys_prompt}, *messages]


def _checked(messages: Sequence[Message]) -> list[Message]:
    if not isinstance(messages, Sequence) or not messages:
        raise InputError("a prompt must be a text or a non-empty list of messages")
    for number, message in enumerate(messages, start=1):
        if (
            not isinstance(message, Mapping)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content", 0), str | list | None)
        ):
            wanted = '{"role": "user", "content": "…"}'
            raise InputError(
                f"message {number} is malformed: write it as {wanted}, with a role and a content"
            )
        if isinstance(text := message.get("content"), str):
            _check_unicode(text, f"message {number}")
    return [dict(message) for message in messages]


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode()  # the command line gives bytes that are not UTF-8 as lone surrogates
    except UnicodeEncodeError as error:
        message = f"{name} is not valid Unicode at character {error.start}: write it in UTF-8"
        raise InputError(message) from error

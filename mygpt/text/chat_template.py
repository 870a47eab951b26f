"""From prompts and messages to token ids: chat templates and raw prompts."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mygpt.errors import InputError
from mygpt.json_files import read_json
from mygpt.text.prompt_styles import REDPAJAMA, STABLELM, STYLE_NAMES, STYLES, PromptStyle
from mygpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]


class ChatTemplate:
    """A Jinja chat template. It gets the names and filters that transformers' `apply_chat_template` provides.

    A template is code of the repository's author, so it runs in Jinja's sandbox, on plain JSON values.
    """

    def __init__(self, source: str) -> None:
        try:
            self._template = _environment().from_string(source)
        except Exception as error:  # mostly jinja2.TemplateSyntaxError
            raise InputError(f"the chat template is not valid Jinja: {_one_line(error)}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        special_tokens: Mapping[str, str],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a conversation; the special tokens and `variables` are variables of the template.

        Raises:
            InputError: the template refuses the messages, breaks out of the sandbox, or fails in another way.
        """
        try:
            plain = json.loads(json.dumps({"messages": [_normalized(m) for m in messages], **variables}))
        except (TypeError, ValueError) as error:
            raise InputError(f"messages must be plain JSON values: {_one_line(error)}") from error
        values = {"tools": None, "documents": None, **special_tokens, **plain}
        try:
            return self._template.render(values, add_generation_prompt=add_generation_prompt)
        except InputError:
            raise
        except Exception as error:  # any error that an expression can raise
            message = f"the chat template failed on these messages: {_one_line(error)}"
            raise InputError(f"{message}; check them, or use --raw_prompt true") from error


@cache
def _environment() -> "ImmutableSandboxedEnvironment":
    """The sandbox, with the names that templates on the Hub expect (transformers' chat_template_utils.py)."""
    from jinja2 import nodes, parser
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training. Here it renders its body."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

        def parse(self, parser: parser.Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    def raise_exception(message: str) -> None:
        raise InputError(f"the chat template refuses these messages: {_one_line(message)}")

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML, which the model was not trained on.
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


def find_chat_template(folder: Path | None, tokenizer: Tokenizer) -> str | None:
    """The repository's own chat template, or None. It is looked for where transformers 5 does.

    First `chat_template.jinja`, then `chat_template` in the tokenizer's config: a template, or a list of named
    templates, where "default" counts. Last, the `chat_template.json` of old multimodal models.

    Raises:
        InputError: one of these does not hold a template.
    """
    if folder and (path := folder / "chat_template.jinja").is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text: download it again") from error
    found = tokenizer.config.get("chat_template")
    if found is None and folder:
        found = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default", named)
    if found is not None and not isinstance(found, str):
        raise InputError(
            "chat_template in the tokenizer's config is neither a text nor a list with a default"
        )
    return found


def _normalized(message: Message) -> Message:
    """A message as transformers gives it to a template: no key is null, reasoning has the keys that they read."""
    present = {key: value for key, value in message.items() if value is not None}
    for key in ("reasoning_content", "thinking", "reasoning"):  # gpt-oss reads the second, others the first
        if key in present:
            return {"thinking": present[key], **present, "reasoning_content": present[key]}
    return present


class PromptEncoder:
    """Turns prompts and messages into token ids."""

    def __init__(self, tokenizer: Tokenizer, style: PromptStyle | None) -> None:
        """`style` None makes every prompt raw."""
        self.style = style
        self.tokenizer = tokenizer

    @classmethod
    def choose(cls, tokenizer: Tokenizer, folder: Path | None, name: str | None = None) -> "PromptEncoder":
        """The encoder with the style `name` (`--prompt_style`), or with the style of the repository in `folder`.

        The latter is its own template, else the named style that its vocabulary or model card shows, else raw.

        Raises:
            InputError: there is no such style, or `name` is "template" and the repository has none.
        """
        if name is not None and name not in STYLE_NAMES:
            raise InputError(f"unknown --prompt_style {name!r}: choose one of {', '.join(STYLE_NAMES)}")
        if name == "raw":
            return cls(tokenizer, None)
        if name in STYLES:
            return cls(tokenizer, STYLES[name])
        if (template := find_chat_template(folder, tokenizer)) is not None:
            return cls(tokenizer, PromptStyle("template", template))
        if name == "template":
            others = ", ".join(STYLE_NAMES[1:])
            raise InputError(f"the model ships no chat template: choose another --prompt_style of {others}")
        return cls(tokenizer, _recognize(tokenizer, folder))

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
        self, prompt: str | Sequence[Message], *, sys_prompt: str | None = None, raw: bool = False
    ) -> list[int]:
        """The ids of one user message or of a conversation, up to where the answer begins.

        With `raw`, and for a model without a template, a text is taken as it is. A template writes its special
        tokens itself, so none are added to it.

        Raises:
            InputError: the prompt is empty or malformed, or an option does not fit it.
        """
        if raw or self.style is None:
            self._check_raw(prompt, sys_prompt, raw)
            ids = self.tokenizer.encode_prompt(str(prompt))
        else:
            messages = _messages(prompt, sys_prompt)
            text = self._template.render(messages, special_tokens=self.tokenizer.special_tokens)
            encode = self.tokenizer.encode_prompt if self.style.adds_special_tokens else self.tokenizer.encode
            ids = encode(text)
        if not ids:
            raise InputError("the prompt is empty: give it some text")
        return ids

    @cached_property
    def _template(self) -> ChatTemplate:
        """Compiled when it is first needed: raw prompts work with a broken template too."""
        assert self.style is not None
        return ChatTemplate(self.style.template)

    def _check_raw(self, prompt: str | Sequence[Message], sys_prompt: str | None, raw: bool) -> None:
        remedy = (
            "drop --raw_prompt" if raw and self.style else f"choose a --prompt_style of {', '.join(STYLES)}"
        )
        why = "a raw prompt has no chat template" if raw else "the model has no chat template"
        if sys_prompt is not None:
            raise InputError(f"--sys_prompt cannot be used, {why}: {remedy}, or drop --sys_prompt")
        if not isinstance(prompt, str):
            raise InputError(f"a list of messages cannot be used, {why}: {remedy}, or give a text")


def _recognize(tokenizer: Tokenizer, folder: Path | None) -> PromptStyle | None:
    """The named style of a repository without a template, if its vocabulary or model card shows one."""
    if all(tokenizer.token_to_id(token) is not None for token in ("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>")):
        return STABLELM
    if folder and (path := folder / "README.md").is_file():
        card = path.read_text(encoding="utf-8", errors="replace")
        if "<human>:" in card and "<bot>:" in card:
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
    return [dict(message) for message in messages]


def _one_line(error: object) -> str:
    return " ".join(str(error).split())

"""Chat templates: where a repository has its own, and how it is rendered."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mygpt.errors import InputError
from mygpt.json_files import read_json, read_text
from mygpt.messages import one_line
from mygpt.text.template_process import TemplateProcess, TooMuchError
from mygpt.text.template_worker import to_line
from mygpt.text.tokenizer import Tokenizer

Message = Mapping[str, Any]


class ChatTemplate:
    """A Jinja chat template. It gets the names and filters that transformers' `apply_chat_template` provides.

    A template is code of the repository's author, so it runs in a process of its own, in Jinja's sandbox, on plain
    JSON values, with limits on time, memory and text. The process starts at once, in the background.
    """

    def __init__(self, source: str, origin: Path | None = None) -> None:
        """`origin` is the file that the template stands in, for messages."""
        self._place = f"{origin}: " if origin else ""
        self._process = TemplateProcess(source)

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names that a caller may give values to.

        Raises:
            InputError: the template is not valid, or takes too much time or memory.
        """
        return frozenset(self._answer(self._process.compiled)["variables"])

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
            InputError: the template is not valid, refuses the messages, breaks out of the sandbox, takes too much
                time, memory or text, or fails in another way.
        """
        given = {"messages": [_normalized(m) for m in messages], **variables}
        values = {"tools": None, "documents": None, **special_tokens, **given}
        try:
            request = to_line({**values, "add_generation_prompt": add_generation_prompt})
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"messages must be plain JSON values: {one_line(error)}") from error
        return str(self._answer(lambda: self._process.render(request))["text"])

    def _answer(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            reply = ask()
        except TooMuchError as error:
            raise InputError(
                f"{self._place}the chat template takes too much time or memory, or writes too much; "
                "check it, or choose another --prompt_style"
            ) from error
        if "error" not in reply:
            return reply
        why = one_line(reply["error"])
        if reply["kind"] == "refused":
            raise InputError(f"the chat template refuses these messages: {why}")
        if reply["kind"] == "invalid":
            raise InputError(f"{self._place}the chat template is not valid Jinja: {why}")
        message = f"{self._place}the chat template failed on these messages: {why}"
        raise InputError(f"{message}; check them, or choose another --prompt_style")


def find_chat_template(path: Path | None, tokenizer: Tokenizer) -> tuple[str, Path | None] | None:
    """The repository's own chat template and its file, or None. It is looked for where transformers 5 does.

    First `chat_template.jinja`, then `chat_template` in the tokenizer's config: a template, or a list of named
    templates, where "default" counts. Last, the `chat_template.json` of old multimodal models.

    Args:
        path: the repository's folder, or a GGUF file.
        tokenizer: of the same repository.

    Raises:
        InputError: one of these does not hold a template.
    """
    folder = path if path and path.is_dir() else None
    if folder and (text := read_text(folder / "chat_template.jinja")) is not None:
        return text, folder / "chat_template.jinja"
    found, origin = tokenizer.config.get("chat_template"), path
    if folder:
        origin = folder / ("chat_template.json" if found is None else "tokenizer_config.json")
        found = read_json(origin).get("chat_template") if found is None else found
    if isinstance(found, list):
        found = next((item.get("template") for item in found if _is_default(item)), found)
    if found is None:
        return None
    if not isinstance(found, str):
        named = f" of {origin}" if origin else ""
        raise InputError(
            f"chat_template in the tokenizer's config{named} is neither a text nor a list with a default; "
            "correct it, or choose another --prompt_style"
        )
    return found, origin


def _is_default(item: object) -> bool:
    return isinstance(item, Mapping) and item.get("name") == "default"


def _normalized(message: Message) -> Message:
    """A message as transformers gives it to a template: no key is null, reasoning has the keys that they read."""
    present = {key: value for key, value in message.items() if value is not None}
    for key in ("reasoning_content", "thinking", "reasoning"):  # gpt-oss reads the second, others the first
        if key in present:
            return {"thinking": present[key], **present, "reasoning_content": present[key]}
    return present

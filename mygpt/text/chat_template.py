"""Chat templates: where a repository has its own, and how it is rendered."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mygpt.errors import InputError
from mygpt.json_files import read_json
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
            self.variables = _variables(source)  # names that a caller may give values to
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
            raise InputError(f"{message}; check them, or choose another --prompt_style") from error


def _variables(source: str) -> set[str]:
    """Names that a template reads and does not only set itself."""
    from jinja2 import meta, nodes

    tree = _environment().parse(source)
    names = meta.find_undeclared_variables(tree)
    # `{% if not thinking is defined %}{% set thinking = false %}{% endif %}` declares it, and yet it is the caller's.
    tested = (test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined"))
    names |= {node.name for node in tested if isinstance(node, nodes.Name)}
    return names - _environment().globals.keys()


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


def _one_line(error: object) -> str:
    return " ".join(str(error).split())

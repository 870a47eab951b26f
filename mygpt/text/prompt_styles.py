"""Named prompt styles, for repositories without a chat template."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PromptStyle:
    """How to write conversations for a model, and the texts or tokens that end its answers."""

    name: str
    template: str  # Jinja, as the repositories' own
    stop_strings: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    adds_special_tokens: bool = False  # the tokenizer adds BOS and others, as to a raw text
    origin: Path | None = field(
        default=None, compare=False
    )  # the file that a repository's own template stands in


# https://github.com/Stability-AI/StableLM, "Quickstart"
STABLELM = PromptStyle(
    "stablelm",
    r"{% set tags = {'system': '<|SYSTEM|>', 'user': '<|USER|>', 'assistant': '<|ASSISTANT|>'} %}"
    r"{% if messages[0].role != 'system' %}{{ tags.system + '"
    r"# StableLM Tuned (Alpha version)\n"
    r"- StableLM is a helpful and harmless open-source AI language model developed by StabilityAI.\n"
    r"- StableLM is excited to be able to help the user, but will refuse to do anything that could be "
    r"considered harmful to the user.\n"
    r"- StableLM is more than just an information source, StableLM is also able to write poetry, short "
    r"stories, and make jokes.\n"
    r"- StableLM will refuse to participate in anything that could harm a human.\n' }}{% endif %}"
    r"{% for message in messages %}{{ tags[message.role] + message.content }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ tags.assistant }}{% endif %}",
    stop_tokens=("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>", "<|padding|>", "<|endoftext|>"),
)

# https://huggingface.co/togethercomputer/RedPajama-INCITE-Chat-3B-v1, "Quick Start"; it has no system prompt
REDPAJAMA = PromptStyle(
    "redpajama",
    r"{% set tags = {'system': '', 'user': '<human>: ', 'assistant': '<bot>: '} %}"
    r"{% for message in messages %}"
    # The model begins its answer to `<bot>:` with a space.
    r"{% set text = message.content | trim if message.role == 'assistant' else message.content %}"
    r"{{ tags[message.role] + text + '\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<bot>:' }}{% endif %}",
    stop_strings=("<human>:",),
)

# For models that were not trained on conversations.
PLAIN = PromptStyle(
    "plain",
    r"{% set tags = {'system': '', 'user': 'User: ', 'assistant': 'Assistant: '} %}"
    r"{% for message in messages %}"
    r"{{ tags[message.role] + message.content.strip() + '\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    stop_strings=("\nUser:",),
    adds_special_tokens=True,
)

STYLES = {style.name: style for style in (STABLELM, REDPAJAMA, PLAIN)}
STYLE_NAMES = ("template", "raw", *STYLES)  # values of --prompt_style

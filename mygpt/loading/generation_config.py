"""What a model's authors recommend for generating with it: `generation_config.json`, or a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mygpt.errors import InputError
from mygpt.options import Sampling

# Tokens of an answer where neither the user nor the authors say how many. After a chat template the model ends by
# itself; a base model goes on forever.
CHAT_TOKENS = 1024
RAW_TOKENS = 50


@dataclass(frozen=True)
class GenerationConfig:
    """The recommendations, with mygpt's own defaults where there is none.

    Attributes:
        sampling: how tokens are chosen.
        max_new_tokens: the most tokens of an answer, None where the authors give no number.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int | None = None

    def answer_tokens(self, given: int | None = None, *, chat: bool) -> int:
        """The most tokens of an answer: as the user says, else the authors; `chat`: it goes through a template."""
        if given is not None:
            return given
        return self.max_new_tokens or (CHAT_TOKENS if chat else RAW_TOKENS)


def read_generation_config(values: Mapping[str, Any], source: str) -> GenerationConfig:
    """The recommendations of `generation_config.json`.

    As in transformers, null is "not given", and `"do_sample": false` means greedy. As in vLLM, settings count without
    a `do_sample` beside them.

    Raises:
        InputError: a value has another type or is out of range.
    """
    given = {f.name: values[f.name] for f in fields(Sampling) if values.get(f.name) is not None}
    if values.get("do_sample") is False:
        given["temperature"] = 0.0
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int if name == "top_k" else int | float):
            raise _wrong(source, f"{name} must be a number, it is {value!r}")
        if not -(2**31) < value < 2**31:
            raise _wrong(source, f"{name} must be below 2147483648, it is {value!r}")
    if given.get("top_k", 0) < 0:  # vLLM's way to write "all tokens"
        given["top_k"] = 0
    try:
        sampling = Sampling(**given)
    except InputError as error:
        raise _wrong(source, str(error).removeprefix("--")) from error
    limit = values.get("max_new_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise _wrong(source, f"max_new_tokens must be 1 or above, it is {limit!r}")
    return GenerationConfig(sampling, limit)


def _wrong(source: str, what: str) -> InputError:
    return InputError(f"{source}: its generation_config.json is wrong, {what}; correct or remove it")

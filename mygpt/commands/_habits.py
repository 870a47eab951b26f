"""Ways to write a command line that users bring along, put into the one that jsonargparse reads.

- `--max-new-tokens` is `--max_new_tokens`, and the first letters of a name are enough if no other begins so.
- `--json` alone is `--json=true`.
- `--stop A --stop B` is `--stop=["A", "B"]`. A JSON list stays one; any other text is one item, also `[INST]`.
- `generate REPO "Hi"` is `generate REPO --prompt=Hi`.

An option's value is never changed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from mygpt.errors import InputError, did_you_mean

# What llama.cpp, Ollama, vLLM and transformers call an option.
OTHER_NAMES = {
    **dict.fromkeys(("n", "n_predict", "num_predict", "max_tokens", "max_length"), "max_new_tokens"),
    **dict.fromkeys(("c", "ctx_size", "num_ctx", "max_model_len"), "context_length"),
    **dict.fromkeys(("f", "file", "prompt_file", "input_file"), "prompts"),
    **dict.fromkeys(("system", "system_prompt", "sys"), "sys_prompt"),
    **dict.fromkeys(("repeat_penalty", "frequency_penalty"), "repetition_penalty"),
    **dict.fromkeys(("tensor_parallel_size", "tp", "gpus"), "devices"),
    **dict.fromkeys(("device",), "accelerator"),
    **dict.fromkeys(("token", "hf_token"), "access_token"),
    **dict.fromkeys(("reasoning", "thinking", "enable_thinking"), "think"),
    **dict.fromkeys(("torch_dtype", "dtype"), "precision"),
}
MODEL_NAMES = ("m", "model", "checkpoint", "model_path", "repo", "hf_repo")
BOOLEAN_WORDS = ("true", "false", "yes", "no", "on", "off")  # what YAML takes for one


def canonical(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The arguments as jsonargparse reads them.

    Raises:
        InputError: there is no such option, or the prompt stands where the model should, or is given twice.
    """
    return _Line(parser).read(arguments)


def kinds(action: argparse.Action) -> set[Any]:
    """The types that an option's value can have; of a `list[str]` it is `list`, of `str | None` both."""
    hint = getattr(action, "_typehint", action.type) or str  # jsonargparse's attribute, else argparse's
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return {get_origin(member) or member for member in members}


def takes_value(action: argparse.Action) -> bool:
    """Whether a value follows the option's name; `--print_config` has none, or one after `=`."""
    return action.nargs != 0 and action.dest != "print_config"


class _Line:
    """One command line while it is read."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.prog = parser.prog
        self.options = {name: action for action in parser._actions for name in action.option_strings}
        places = [action for action in parser._actions if not action.option_strings]
        several = any(action.nargs not in (None, "?") for action in places)
        self.places = math.inf if several else len(places)
        self.read_so_far: list[str] = []
        self.positionals: list[str] = []
        self.lists: dict[str, list[str]] = {}  # the texts of a repeated option
        self.prompt = False  # whether an option gave one

    def read(self, arguments: Sequence[str]) -> list[str]:
        """All of it."""
        rest = list(arguments)
        if not {"-h", "--help"}.isdisjoint(rest[: rest.index("--")] if "--" in rest else rest):
            return ["--help"]  # whatever else is wrong
        after_dashes: list[str] = []
        while rest:
            token = rest.pop(0)
            if token == "--":
                after_dashes, rest = self._plain(rest), []
            elif _is_option(token):
                self._option(token, rest)
            else:
                self.read_so_far += self._plain([token])
        self._check_positionals()
        return [*self.read_so_far, *(["--", *after_dashes] if after_dashes else [])]

    def _plain(self, tokens: list[str]) -> list[str]:
        """Positional arguments: those that stay, without the one that is the prompt."""
        stay = []
        for token in tokens:
            self.positionals.append(token)
            if len(self.positionals) == self.places + 1 and "--prompt" in self.options:
                self.read_so_far.append(f"--prompt={token}")
            else:
                stay.append(token)
        return stay

    def _option(self, token: str, rest: list[str]) -> None:
        name, equals, value = token.partition("=")
        if not token.startswith("--"):
            name, equals, value = self._short(token)
        name = self._known(name)
        action = self.options[name]
        self.prompt |= action.dest == "prompt"
        if not takes_value(action):
            self.read_so_far.append(name + equals + value)
        elif equals:
            self._with_value(name, action, value)
        elif bool in kinds(action):
            self.read_so_far.append(f"{name}={self._boolean(action, rest)}")
        elif not rest or _is_option(rest[0]):
            raise InputError(f"{name} needs a value; one that begins with a dash is written {name}=VALUE")
        else:
            self._with_value(name, action, rest.pop(0))

    def _with_value(self, name: str, action: argparse.Action, value: str) -> None:
        if list in kinds(action) and name != "--stop+":  # jsonargparse's own way to add to a list
            texts = self.lists.setdefault(action.dest, [])
            texts += _texts(action.dest, value)
            value = json.dumps(texts)
        self.read_so_far.append(f"{name}={value}")

    def _boolean(self, action: argparse.Action, rest: list[str]) -> str:
        words = (*BOOLEAN_WORDS, "null") if type(None) in kinds(action) else BOOLEAN_WORDS
        return rest.pop(0) if rest and rest[0].lower() in words else "true"

    def _short(self, token: str) -> tuple[str, str, str]:
        """`-p`, `-pTEXT` or `-p=TEXT`, but not `-prompt`."""
        if f"-{token.partition('=')[0]}" in self.options:
            raise InputError(f"{self.prog} has no option {token}; did you mean -{token}?")
        if token[:2] not in self.options:
            return token.partition("=")
        return token[:2], token[2:] and "=", token[2:].removeprefix("=")

    def _known(self, given: str) -> str:
        """The option that a name means: exactly, with dashes for underscores, or by its first letters."""
        name = re.sub(r"(?<=\w)-", "_", given)
        if name in self.options:
            return name
        long = {action.dest: option for option, action in self.options.items() if option[:2] == "--"}
        close = [f"--{dest}" for dest in long if name != "--" and f"--{dest}".startswith(name)]
        if len(close) == 1:
            return close[0]
        if close:
            raise InputError(f"{given} can be {' or '.join(close)}: write it out")
        raise InputError(f"{self.prog} has no option {given}{self._meant(name.lstrip('-'), long)}")

    def _meant(self, name: str, long: Mapping[str, str]) -> str:
        """The end of the message: what an unknown option is called here."""
        if (other := OTHER_NAMES.get(name)) in long:
            return f"; did you mean --{other}?"
        if name in MODEL_NAMES and self.places:
            return f"; the model has no name before it: {self.prog} MODEL"
        return did_you_mean(name, long, "--") or f"; see '{self.prog} --help'"

    def _check_positionals(self) -> None:
        if len(self.positionals) > self.places + ("--prompt" in self.options):
            raise InputError(f"there is no place for {self.positionals[-1]!r}; see '{self.prog} --help'")
        if "--prompt" not in self.options or not self.positionals:
            return
        second = len(self.positionals) > self.places
        if second and self.prompt:
            raise InputError(
                f"the prompt is given twice, as {_start(self.positionals[-1])!r} and with --prompt: leave one out"
            )
        first = self.positionals[0]
        if re.search(r"\s", first.strip()) and not self.prompt and not _exists(first):
            raise InputError(
                f"{_start(first)!r} stands where the model should: "
                f'write {self.prog} --prompt "...", or the model before it'
            )


def _is_option(token: str) -> bool:
    """As argparse sees it: what begins with a dash, but no number, no text with spaces and no dash alone."""
    if not token.startswith("-") or token == "-" or re.fullmatch(r"-\d+|-\d*\.\d+", token):
        return False
    return " " not in token.partition("=")[0]


def _texts(name: str, value: str) -> list[str]:
    """The texts of a value: of a JSON list, or itself."""
    if not value.startswith("["):
        return [value]
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        if value.startswith(('["', "['")):  # nobody means to stop at such a text
            raise InputError(
                f"""--{name} {value!r} is not a JSON list such as '["###", "User:"]'"""
            ) from None
        return [value]
    if wrong := [item for item in items if not isinstance(item, str)]:
        raise InputError(f"--{name} must be a text or a list of texts, it holds {json.dumps(wrong[0])}")
    return list(items)


def _start(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name, or an unknown ~user
        return False

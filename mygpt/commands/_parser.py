"""The option parser that the commands share: jsonargparse, with one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
)

from mygpt.commands._habits import canonical
from mygpt.commands._help import format_help
from mygpt.errors import InputError, did_you_mean
from mygpt.options import TYPE_WORDS, LoadOptions
from mygpt.options.yaml_values import load_yaml

T = TypeVar("T")

_CONFIG_BYTES = 1_000_000  # of a file of options

_CONFIG_HELP = "Options from a YAML file; later options on the command line win."


class Parser(ArgumentParser):
    """Raises InputError for bad options. (ArgumentParser prints the usage and exits.)"""

    examples: tuple[str, ...] = ()
    _config = ""  # the file that `--config` names

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The page that `--help` prints."""
        return format_help(self, self.examples)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Called by jsonargparse with its error message."""
        message = " ".join(message.split())
        if key := re.match(r"Option '(.+?)' is not accepted", message):  # a key of a YAML file
            names = {action.dest for action in self._actions}
            hint = did_you_mean(key[1], names) or f"; see '{self.prog} --help'"
            message = f"--config: {self.prog} has no option {key[1]!r}{hint}"
        else:
            message = f"{_explain(message)}; see '{self.prog} --help'"
        if self._config:
            message = message.replace("--config", f"--config {self._config}", 1)
        raise InputError(message) from ex

    def parse_path(self, path: str | os.PathLike[str], *arguments: Any, **options: Any) -> Namespace:
        """The options of a YAML file. What `error` says of it names the file."""
        self._config = str(path)
        try:
            size = Path(path).stat().st_size
            check_no_fifo("--config", Path(path))
            if size > _CONFIG_BYTES:
                raise InputError(f"--config {path}: {size / 1e6:.0f} MB are no file of options; name another")
            return cast("Namespace", super().parse_path(path, *arguments, **options))
        except UnicodeDecodeError as error:
            raise InputError(
                f"--config {path} is not UTF-8 text ({error.reason}): save it as UTF-8"
            ) from error
        except OSError as error:
            raise InputError(f"--config {path}: cannot be read ({error.strerror})") from error

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Namespace:
        """The options of a YAML file; dashes in their names are as good as underscores there too."""
        content = re.sub(r"(?m)^\w+(?:-\w+)+(?=:\s)", lambda name: name[0].replace("-", "_"), content)
        parsed: Namespace = super().parse_string(content, *arguments, **options)
        return parsed

    def dump(self, cfg: Namespace, *arguments: Any, **options: Any) -> str:
        """The configuration as YAML (`--print_config`), without the token."""
        if cfg.get("access_token") is not None:
            cfg = cfg.clone()
            cfg["access_token"] = None
        return str(super().dump(cfg, *arguments, **options))


def check_no_fifo(option: str, path: Path) -> None:
    """See that a file is no named pipe, which perhaps nobody writes to. A shell's `<(...)` is one under /dev/fd.

    Raises:
        InputError: it is one.
    """
    if path.is_fifo() and path.parent != Path("/dev/fd"):
        raise InputError(f"{option} {path} is a pipe, which may never be written to; name a file")


def _explain(message: str) -> str:
    """jsonargparse's message in words without Python's terms; an unknown message stays as it is."""
    if config := re.match(r"(?:Unexpected config|Problems parsing config):\s*(.*)", message):
        return f"--config must be a YAML file of options, such as 'temperature: 0' ({config[1] or 'it is empty'})"
    if missing := re.match(r"the following arguments are required: (.*)", message):
        return f"{missing[1].upper()} must be given"
    if (wrong := re.match(r'Parser key "(\w+)": (.*)', message)) is None:
        return message
    name, why = wrong.groups()
    if "Exceeds the limit" in why:  # Python's, in the digits of a number
        return f"--{name} is out of range: it has thousands of digits"
    types = re.search(r"(?:Subtypes: \[|Expected a )(?:<class ')?([\w.]+)", why)
    value = re.search(r".*(?:Got|Given) value:\s*(.*)", why)
    if types is None or value is None:
        return f"--{name}: {why}"
    given = "" if name == "access_token" else f", it is {value[1]!r}"
    return f"--{name} must be {TYPE_WORDS.get(types[1], types[1])}{given}"


def _load_yaml(text: str) -> Any:
    """As jsonargparse, but a text of YAML comments only stays a text: `--sys_prompt '# Be kind'` is not null.

    A JSON list is read as JSON, which has characters that YAML refuses.
    """
    if text.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    value = load_yaml(text, get_loader("yaml"))
    return text if value is None else value


set_loader("mygpt", _load_yaml, exceptions=(yaml.YAMLError,))


def make_parser(
    command: str, description: str, examples: Sequence[str] = (), checkpoint: bool = True
) -> Parser:
    """A parser with the arguments of every command: `--config`, `--print_config` and (by default) CHECKPOINT.

    `examples` are whole command lines of 78 columns or less, for the end of the help.
    """
    parser = Parser(prog=f"mygpt {command}", description=description, parser_mode="mygpt")
    parser.examples = tuple(examples)
    parser.add_argument("--config", action=ActionConfigFile, help=_CONFIG_HELP)
    if checkpoint:
        parser.add_argument(
            "checkpoint",
            nargs="?",
            type=str,
            default=argparse.SUPPRESS,  # any other default would win over the YAML file
            help="A local folder, a .gguf file, a Hub repository or a short name ('mygpt download list' "
            "shows some); by default SmolLM2-135M-Instruct.",
        )
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """Parse a command's arguments.

    Raises:
        InputError: an unknown option, or a value of the wrong type.
    """
    return parser.parse_args(canonical(parser, arguments))


def given(parser: Parser, arguments: Sequence[str]) -> set[str]:
    """The names of the options that the user gave, on the command line or in a file."""
    return set(parser.parse_args(canonical(parser, arguments), defaults=False).keys())


def take(options: type[T], namespace: Namespace) -> T:
    """One dataclass of options from the parsed arguments."""
    values: dict[str, Any] = {field.name: namespace[field.name] for field in fields(options)}  # type: ignore[arg-type]
    return options(**values)


def with_strategy(loading: LoadOptions, command: str, strategy: str) -> LoadOptions:
    """The options with the command's own strategy for several devices; InputError if the user chose another."""
    if loading.strategy not in (None, strategy) and strategy != "auto":
        raise InputError(
            f"mygpt {command} has its own strategy; use 'mygpt generate --strategy {loading.strategy}'"
        )
    return replace(loading, strategy=loading.strategy or strategy)

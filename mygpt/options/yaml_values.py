"""Values that a user wrote in YAML: a file of options, `/set NAME VALUE`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml


def load_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """The value of a text in YAML; `load` is the loader.

    Aliases are refused: a few lines of them may stand for more values than memory holds, or hold themselves.

    Raises:
        yaml.YAMLError: the text is no YAML, or holds an alias, or a number of thousands of digits.
    """
    if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise yaml.YAMLError("aliases (*NAME) are not read; write the value out")
    try:
        return load(text)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error).partition(";")[0]) from error

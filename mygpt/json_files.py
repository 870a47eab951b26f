"""Read the JSON files of a repository."""

import json
from pathlib import Path
from typing import Any

from mygpt.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; {} where there is no such file.

    Raises:
        InputError: the file is something else.
    """
    try:
        if not path.is_file():
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object: download it again")
    return content

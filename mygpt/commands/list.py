"""`mygpt list`: the models on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from mygpt.commands._parser import Parser, make_parser, parse
from mygpt.commands._words import columns, path_text, size_text
from mygpt.hub.inventory import COMPILED, PLACES, CachedModel, CacheEntry, compiled, hub_cache, models
from mygpt.messages import for_output
from mygpt.paths import cache_folder

_HEADINGS = ("NAME", "SIZE", "FAMILY", "STATE", "LAST USED")


def build_parser() -> Parser:
    """The options of the command."""
    examples = ("mygpt list", "mygpt list --paths")
    parser = make_parser("list", "List the models on this machine.", examples, checkpoint=False)
    parser.add_function_arguments(show)
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options, look and print."""
    parsed = parse(build_parser(), arguments)
    show(parsed.paths, parsed.json)


def show(paths: bool = False, json: bool = False) -> None:
    """Show the models in ./checkpoints, in the Hugging Face cache and in mygpt's own cache.

    Args:
        paths: Show also where each of them lies.
        json: Print one JSON object instead of a table.
    """
    found, code = models(), compiled()
    print(_as_json(found, code) if json else for_output("\n".join(_lines(found, code, paths)), sys.stdout))


def _as_json(found: list[CachedModel], code: list[CacheEntry]) -> str:
    content = {
        "models": [_model(model) for model in found],
        "compiled": [
            {"name": entry.name, "size_bytes": entry.size_bytes, "path": str(entry.path)} for entry in code
        ],
        "total_bytes": sum(entry.size_bytes for entry in [*found, *code]),
    }
    return json.dumps(content)


def _model(model: CachedModel) -> dict[str, Any]:
    used = model.last_used
    return {
        "name": model.name,
        "place": model.place,
        "size_bytes": model.size_bytes,
        "family": model.family,
        "supported": model.supported,
        "complete": not model.missing,
        "missing": list(model.missing),
        "note": model.note,
        "last_used": None if used is None else datetime.fromtimestamp(used, timezone.utc).isoformat(),
        "path": str(model.folder),
    }


def _lines(found: list[CachedModel], code: list[CacheEntry], paths: bool) -> list[str]:
    if not found:
        places = f"{PLACES['checkpoints']}, {path_text(hub_cache())} and {path_text(cache_folder())}"
        lines = [f"No models in {places}.", "'mygpt download REPO' fetches one."]
    else:
        lines = _table(found, paths)
    for entry in code:
        lines.append(f"\n{entry.name}: {size_text(entry.size_bytes)}, {COMPILED[entry.name]}")
        lines += [f"  {path_text(entry.path)}"] if paths else []
    if found:
        total = size_text(sum(entry.size_bytes for entry in [*found, *code]))
        lines.append(f"\nTogether {total}. 'mygpt rm NAME' removes one.")
    return lines


def _table(found: list[CachedModel], paths: bool) -> list[str]:
    rows = [
        (model.name, size_text(model.size_bytes), _family(model), _state(model), _day(model.last_used))
        for model in found
    ]
    heading, *table = columns([_HEADINGS, *rows], right=(1,))
    lines = [heading]
    for line, model in zip(table, found, strict=True):
        lines.append(line)
        if model.missing:
            lines.append(f"  lacks {', '.join(model.missing[:3])}")
        if model.note:
            lines.append(f"  {model.note}")
        if paths:
            lines.append(f"  {path_text(model.folder)}")
    return lines


def _family(model: CachedModel) -> str:
    return {True: str(model.family), False: "not supported", None: "unknown"}[model.supported]


def _state(model: CachedModel) -> str:
    return "incomplete" if model.missing else "complete"


def _day(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d")

"""`mygpt rm NAME`: remove models from this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mygpt.commands._parser import Parser, make_parser, parse
from mygpt.commands._words import size_text
from mygpt.errors import InputError, nearest
from mygpt.hub.inventory import PLACES, CacheEntry, compiled, models
from mygpt.hub.remove import check_removable, freed_bytes, remove
from mygpt.messages import for_output, printable, tell


def build_parser() -> Parser:
    """The options of the command."""
    examples = ("mygpt rm Qwen/Qwen3-0.6B", "mygpt rm kernels compile --yes")
    parser = make_parser("rm", "Remove models from this machine.", examples, checkpoint=False)
    parser.add_argument("names", nargs="+", type=str, help="Names as `mygpt list` shows them.")
    parser.add_argument("--yes", type=bool, default=False, help="Remove without asking.")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Parse the options, ask, remove."""
    parsed = parse(build_parser(), arguments)
    rm(parsed.names, parsed.yes)


def rm(names: Sequence[str], yes: bool = False) -> None:
    """Remove what `mygpt list` shows under these names, from all caches; all of it or, if one is wrong, nothing.

    Raises:
        InputError: there is no such thing, it must not be removed, or there is no terminal to ask on.
    """
    entries = find(names)
    for entry in entries:
        check_removable(entry)
    if not yes and not _confirmed(entries):
        tell("nothing removed")
        return
    for entry in entries:
        done = f"removed {_described(entry)}"
        remove(entry)
        print(for_output(done, sys.stdout))


def find(names: Sequence[str]) -> list[CacheEntry]:
    """What lies in the caches under these names.

    Raises:
        InputError: nothing does.
    """
    stored: list[CacheEntry] = [*models(), *compiled()]
    found: list[CacheEntry] = []
    for name in dict.fromkeys(names):
        own = [entry for entry in stored if entry.name == name]
        if not own:
            raise InputError(f"there is no {name!r} in the caches{_meant(name, stored)}")
        found += own
    return found


def _meant(name: str, stored: Sequence[CacheEntry]) -> str:
    """The end of the message: a name that is alike, with or without the owner."""
    by_end = {entry.name.rpartition("/")[2]: entry.name for entry in stored}
    near = nearest(name, [*by_end, *(entry.name for entry in stored)])
    return f"; did you mean {by_end.get(near, near)}?" if near else "; 'mygpt list' shows what there is"


def _confirmed(entries: Sequence[CacheEntry]) -> bool:
    what = _described(entries[0])
    if len(entries) > 1:
        what = f"these {len(entries)} ({size_text(sum(map(freed_bytes, entries)))})"
    if not sys.stdin.isatty():
        raise InputError(f"rm would ask whether to remove {what}, but there is no terminal; add --yes true")
    if len(entries) > 1:
        for entry in entries:
            tell(_described(entry))
    print(printable(f"remove {what}? [y/N] "), end="", file=sys.stderr, flush=True)
    answer = ""
    try:
        answer = sys.stdin.readline()
    finally:
        if not answer.endswith("\n"):  # Ctrl-C or Ctrl-D: nobody has pressed Enter
            print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")


def _described(entry: CacheEntry) -> str:
    if entry.path.is_symlink():
        return f"the link {entry.path} (what it leads to stays)"
    return f"{entry.name} from {PLACES[entry.place]} ({size_text(entry.size_bytes)})"

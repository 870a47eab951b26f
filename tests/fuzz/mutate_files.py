"""Mutations of files as wholes: missing, empty, something else in their place."""

import random

from tests.fuzz.case import OUTSIDE, Case, Entry, Fifo, Folder, Link, Unreadable


def mutate(rng: random.Random, case: Case, names: list[str]) -> None:
    """Change one of the case's files that are named."""
    name = rng.choice(names)
    content = case.files[name]
    if not isinstance(content, bytes):
        return
    base = name.rpartition("/")[2]
    choices: list[tuple[str, Entry | None]] = [
        ("missing", None),
        ("empty", b""),
        ("a folder", Folder()),
        ("a pipe", Fifo()),
        ("a link to /dev/zero", Link("/dev/zero")),
        ("a link to itself", Link(base)),
        ("a link to nothing", Link("nowhere")),
        ("a link to its folder", Link(".")),
        ("a link outside", Link(OUTSIDE)),
        ("unreadable", Unreadable(content)),
        ("one byte", content[:1]),
        ("zeros", bytes(min(len(content), 10_000))),
        ("another file", case.files[rng.choice(sorted(case.files))]),
    ]
    told, entry = rng.choice(choices)
    if entry is None:
        del case.files[name]
    else:
        case.files[name] = entry
    case.mutations.append(f"{name}: {told}")

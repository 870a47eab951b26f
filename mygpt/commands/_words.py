"""Sizes and paths as commands print them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(size: float) -> str:
    """Bytes as `269 MB`, `1.3 GB`: powers of 1000, as the Hub has them."""
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit >= 3 or 0 < size < 9.95 else f"{size:.0f} {_UNITS[unit]}"


def path_text(path: Path) -> str:
    """A path with `~` for the home folder."""
    home, text = os.path.expanduser("~"), str(path)  # noqa: PTH111, Path.home() raises where there is none
    return "~" + text.removeprefix(home) if text == home or text.startswith(home + os.sep) else text


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows of cells as lines of aligned columns; those of the numbers in `right` are aligned there."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines

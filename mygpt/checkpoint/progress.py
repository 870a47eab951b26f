"""A bar on the terminal while something takes long: on standard error, gone when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

# What takes less shows no bar, and does not wait for rich to be imported.
DELAY_S = 0.5


@contextmanager
def progress_bar(what: str, total: int, *, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with each further number of bytes that is done, of `total`.

    Nothing is shown where standard error is no terminal, or with `show` false.
    """
    if not show or not sys.stderr.isatty():
        yield lambda nbytes: None
        return
    start, done = time.monotonic(), 0
    bar: Progress | None = None

    def advance(nbytes: int) -> None:
        nonlocal bar, done
        done += nbytes
        if bar is None and time.monotonic() - start >= DELAY_S:
            bar = _make_bar()
            bar.add_task(what, total=total)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=min(done, total))

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _make_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # it would write to standard error what belongs to standard output
    )

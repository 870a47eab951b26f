"""Finds an answer that repeats itself without end.

Measured on 90 million of SmolLM2's tokens of prose and source code (25,250 files: benchmarks/text/, mygpt, CPython's
library, installed packages and headers): one file is cut, a generated table of Unicode with the alphabet 13 times.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PERIOD = 128  # tokens of the longest block that is looked for
MIN_REPEATS = 4
MIN_SPAN = 256  # tokens that are the same block again and again
# Tables of zeros, boards and rulers in a frame are long and have few different tokens.
FEW_DISTINCT, MIN_SPAN_FEW = 10, 768


def repeated_period(ids: Sequence[int]) -> int | None:
    """The length of the block that the ids end in again and again, None where they do not.

    The block has at most `MAX_PERIOD` tokens. It comes `MIN_REPEATS` times at least, and fills at least `MIN_SPAN`
    tokens, or `MIN_SPAN_FEW` where it has 2 to `FEW_DISTINCT` - 1 different ones.
    """
    if len(ids) < MIN_SPAN:
        return None
    newest = ids[-1]
    for period in range(1, min(MAX_PERIOD, len(ids) // MIN_REPEATS) + 1):
        if ids[-1 - period] != newest:
            continue
        distinct = len(set(ids[-period:]))
        span = MIN_SPAN_FEW if 1 < distinct < FEW_DISTINCT else max(MIN_SPAN, MIN_REPEATS * period)
        if len(ids) >= span and ids[-span + period :] == ids[-span:-period]:
            return period
    return None

"""Settings of the C library's memory allocator."""

from __future__ import annotations

import contextlib
import ctypes

# Of glibc's mallopt: sizes from which memory is mapped by itself, and left over from which it is given back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _KEPT = 32 << 20, 256 << 20  # bytes; mallopt takes no larger threshold than 32 MiB


def keep_freed_memory() -> None:
    """Let it keep what one forward pass frees for the next: pages that are new each time cost a sixth of a prefill.

    Call it after the model is loaded, so that no pieces of weights lie between. Other C libraries stay as they are.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)

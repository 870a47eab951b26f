"""Where mygpt keeps what it made once: the default model, kernels, compiled code."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$MYGPT_CACHE`, else `mygpt` under the user's cache folder; it may not exist yet."""
    own, user = os.environ.get("MYGPT_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or Path(user, "mygpt")).expanduser()

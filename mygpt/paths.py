"""Where mygpt keeps what it made once: the default model, kernels, compiled code."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$MYGPT_CACHE`, else `mygpt` under the user's cache folder; it may not exist yet."""
    own, user = os.environ.get("MYGPT_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own or Path(user, "mygpt")).expanduser()
    except RuntimeError:  # a user without a home folder, as in some containers
        import tempfile

        return Path(tempfile.gettempdir(), f"mygpt-{user_number()}")


def user_number() -> str:
    """For names of what several users may each have one of. On Windows there is none."""
    return str(os.geteuid()) if hasattr(os, "geteuid") else "0"

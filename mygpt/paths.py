"""Where mygpt keeps what it made once: the default model, kernels, compiled code."""

from __future__ import annotations

import os
from pathlib import Path

from mygpt.errors import InputError


def cache_folder() -> Path:
    """`$MYGPT_CACHE`, else `mygpt` under the user's cache folder; it may not exist yet.

    Raises:
        InputError: the user has no home folder.
    """
    own, user = os.environ.get("MYGPT_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own or Path(user, "mygpt")).expanduser()
    except RuntimeError as error:
        raise InputError("there is no home folder: set HOME, or MYGPT_CACHE to a folder") from error

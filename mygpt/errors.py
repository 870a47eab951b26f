"""The two ways in which mygpt fails on purpose, each one line on standard error; and how a worker's work ends."""

import re
from collections.abc import Iterable

from mygpt.messages import one_line

# What Python, torch and the loader of libraries say where the system gives no more (but not for lack of permission).
_LIMITED = re.compile(
    r"(failed to map segment from shared object)(?!:)|can't start new thread|std::bad_alloc"
)
_NO_MEMORY = re.compile("can(not|'t) allocate memory", re.IGNORECASE)


class InputError(ValueError):
    """Something the user gave is wrong: a path, an option, a broken file. Exit code 2.

    The message is one line that names the thing and says what to do about it.
    """


class ContextOverflowError(InputError):
    """The conversation outgrew the model's context, and was to stop there (`--on_overflow error`)."""


class RunError(RuntimeError):
    """Something went wrong while running: out of memory, non-finite logits, a dead rank. Exit code 1.

    The message is one line that names the thing and says what to do about it.
    """


class WorkerFinished(SystemExit):
    """Rank 0 has ended, so this process, one of its workers, has nothing left to do. Exit code 0.

    Whoever is at the edge decides what follows: `mygpt` returns 0. In a script that leaves it alone, the base class
    makes Python end quietly, so that a worker never runs the code after `LLM.load`; `except Exception` lets it pass.
    """


def error_message(error: Exception) -> str:
    """What is shown of any error."""
    text = one_line(error)
    if isinstance(error, InputError | RunError):
        return text
    if _LIMITED.search(text):
        text = text.rpartition("Original error was: ")[2]  # numpy's, after a page of advice
        return f"out of memory or threads; raise the limits of 'ulimit -v' and 'ulimit -u', or the container's ({text})"
    # torch's, without importing torch for it; on the CPU it is a RuntimeError like any other
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or _NO_MEMORY.search(text):
        remedy = "try a smaller --max_new_tokens, --batch_size or model, or more --devices; 'mygpt plan' says what fits"
        return f"out of memory; {remedy} ({text or type(error).__name__})"
    return f"{type(error).__name__}: {text} (MYGPT_DEBUG=1 shows where)"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped word is most like, or that holds it; None if there is none."""
    from difflib import get_close_matches  # only now: few commands fail

    word, names = word.lower(), {name.lower(): name for name in known}
    close = get_close_matches(word, names, n=1, cutoff=0.7)
    holding = sorted((name for name in names if len(word) > 2 and word in name), key=len)
    return next((names[name] for name in close + holding), None)


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean NAME?` with the nearest name, for the end of an error message; "" if there is none."""
    name = nearest(word, known)
    return f"; did you mean {prefix}{name}?" if name else ""

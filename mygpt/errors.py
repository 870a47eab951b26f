"""The two ways in which mygpt fails on purpose; each becomes one line on standard error."""


class InputError(ValueError):
    """Something the user gave is wrong: a path, an option, a broken file. Exit code 2.

    The message is one line that names the thing and says what to do about it.
    """


class RunError(RuntimeError):
    """Something went wrong while running: out of memory, non-finite logits, a dead rank. Exit code 1.

    The message is one line that names the thing and says what to do about it.
    """

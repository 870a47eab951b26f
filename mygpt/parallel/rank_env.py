"""Placements of the one model: on one device, in turn over several, or shared out over ranks."""

import os
import signal
import sys
import threading
import time

# Seconds that a follower which fails leaves to rank 0: most often that one met the same error, and tells it.
PATIENCE = 3.0
PARENT = (
    "MYGPT_PARENT"  # the environment variable by which ranks know, from their first moment, who started them
)
# Where launchers write what number a process has; a shell may hold them for other reasons.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
_THREAD = "mygpt-parent"


def number_of(variable: str) -> int:
    """What a launcher's environment variable numbers this process; 0 where it holds no number."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 0


def may_follow() -> bool:
    """Whether this process may be a further rank of a command."""
    return any(number_of(name) > 0 for name in RANK_VARIABLES)


def starts_to_follow() -> bool:
    """Whether a rank of this machine started this process as a further one, through Fabric.

    Of the others, which torchrun, SLURM or a user started, only `launch` knows that they join several ranks; until
    then, Ctrl-C in rank 0's terminal does not reach them.
    """
    return PARENT in os.environ and number_of("LOCAL_RANK") > 0


def is_follower() -> bool:
    """Whether this process is known to be a further rank of a command."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def begin_to_follow() -> None:
    """In a follower, as early as can be: leave Ctrl-C to rank 0, and end when whoever started it was killed."""
    if is_follower():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = number_of(PARENT) or os.getppid()

    def watch() -> None:  # one of several followers says so
        while os.getppid() == parent:
            time.sleep(0.1)
        if number_of("LOCAL_RANK") == 1:
            node = number_of("NODE_RANK")
            who = f"the first rank of node {node}" if node else "rank 0"
            print(f"error: {who} was killed; the other ranks were ended", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name=_THREAD).start()

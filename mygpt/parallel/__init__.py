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
_THREAD = "mygpt-parent"


def is_follower() -> bool:
    """Whether this process was started as a further rank of a command, by Fabric, torchrun or SLURM."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return any(int(os.environ.get(name) or 0) > 0 for name in names)


def begin_to_follow() -> None:
    """In a follower, as early as can be: leave Ctrl-C to rank 0, and end when whoever started it was killed."""
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(os.environ.get(PARENT) or os.getppid())

    def watch() -> None:  # one of several followers says so
        while os.getppid() == parent:
            time.sleep(0.1)
        if os.environ.get("LOCAL_RANK") == "1":
            node = int(os.environ.get("NODE_RANK") or 0)
            who = f"the first rank of node {node}" if node else "rank 0"
            print(f"error: {who} was killed; the other ranks were ended", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name=_THREAD).start()

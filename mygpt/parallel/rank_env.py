"""What a process knows about its rank from its environment, before torch is imported.

Rank 0 runs the command. The other ranks are its workers: they compute what it asks for.
"""

import os
import signal
import threading
import time

from mygpt.messages import tell

# Seconds that a rank waits before it reports an error: another rank may know the cause, and one line is enough.
REPORT_DELAY_S = 3.0
# Environment variable with the process id of the rank that started this one; set before a worker's first import.
PARENT_PID_VARIABLE = "MYGPT_PARENT"
# What such a rank is to load, as JSON: see `mygpt.loading.worker`.
TASK_VARIABLE = "MYGPT_TASK"
# Where launchers write a process's rank. A shell may have set them for other reasons.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")

_is_worker = False  # set once, by `become_worker`


def env_rank(variable: str) -> int:
    """The rank in a launcher's environment variable; 0 where it holds no number."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 0


def may_be_worker() -> bool:
    """Whether a launcher may have started this process as a worker."""
    return any(env_rank(name) > 0 for name in RANK_VARIABLES)


def started_as_worker() -> bool:
    """Whether a rank on this machine started this process as a worker, through Fabric.

    Processes that torchrun, SLURM or a user started are workers only if they join several ranks, which `launch`
    finds out. Until then, Ctrl-C in rank 0's terminal does not reach them.
    """
    return PARENT_PID_VARIABLE in os.environ and env_rank("LOCAL_RANK") > 0


def first_on_machine() -> bool:
    """Whether this process is the first, or the only one, of those on this machine."""
    return not (env_rank("LOCAL_RANK") or env_rank("SLURM_LOCALID"))


def is_worker() -> bool:
    """Whether `become_worker` was called in this process."""
    return _is_worker


def become_worker() -> None:
    """Make this process a worker, as early as possible: it ignores Ctrl-C, and ends when its parent was killed."""
    global _is_worker
    if _is_worker:
        return
    _is_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 handles it
    parent = env_rank(PARENT_PID_VARIABLE) or os.getppid()
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True, name="mygpt-parent").start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    try:
        if env_rank("LOCAL_RANK") == 1:  # one of several workers reports it
            node = env_rank("NODE_RANK")
            name = f"the first rank of node {node}" if node else "rank 0"
            tell(f"error: {name} was killed; the other ranks were ended")
    finally:  # also where standard error is gone
        os._exit(1)

"""What a rank does that another one started: it loads its part of the model, and runs that until rank 0 ends.

It knows what to load from its environment, and needs neither the script nor the command line of rank 0.
"""

from __future__ import annotations

import json
import os

from mygpt.loading.load import load
from mygpt.options import LoadOptions
from mygpt.parallel.rank_env import TASK_VARIABLE


def run() -> None:
    """Load and run what the task says; `main` calls it.

    Raises:
        WorkerFinished: rank 0 has ended.
    """
    task = json.loads(os.environ.pop(TASK_VARIABLE))
    load(task["checkpoint"], LoadOptions(**task["options"]))

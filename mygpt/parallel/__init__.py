"""Placements of the one model: on one device, in turn over several, or shared out over ranks."""

import os

# Seconds that a follower which fails leaves to rank 0: most often that one met the same error, and tells it.
PATIENCE = 3.0


def is_follower() -> bool:
    """Whether this process was started as a further rank of a command, by Fabric, torchrun or SLURM."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return any(int(os.environ.get(name) or 0) > 0 for name in names)

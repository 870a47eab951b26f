"""Run by all ranks of a group: `python -m tests.parallel.ranks_script JOBS RESULTS`, started once for many models.

JOBS is a JSON list of [key, folder, strategy, cpu_offload, kinds of answers, load options]; RESULTS what `answers`
gives of each, by key.
"""

import json
import sys
from pathlib import Path

import torch

from mygpt import LLM
from mygpt.checkpoint.open import open_checkpoint
from mygpt.families import read_config
from mygpt.loading.build import build
from mygpt.loading.load import LoadedModel
from mygpt.options import LoadOptions
from mygpt.parallel.launch import launch
from mygpt.parallel.message_bus import MessageBus
from mygpt.parallel.placement import Placement
from mygpt.parallel.remote_model import RemoteModel, run_worker
from tests.parallel.answers import answers


def main(jobs: Path, results: Path, devices: int) -> None:
    ranks = launch("cpu", devices, 1)
    names = tuple(f"cpu:{number}" for number in range(devices))
    found = {}
    for key, folder, strategy, cpu_offload, kinds, options in json.loads(jobs.read_text()):
        placement = Placement(strategy, (ranks.device,), names, ranks, cpu_offload)
        checkpoint = open_checkpoint(Path(folder))
        architecture = read_config(checkpoint.config)
        model, precision = build(checkpoint, *architecture, placement, LoadOptions(**options))
        bus = MessageBus(ranks)
        if ranks.rank > 0:
            run_worker(model, bus)
            continue
        remote = RemoteModel(model, bus)
        loaded = LoadedModel(remote, None, frozenset(), names, precision, strategy, load_s=0.0)
        found[key] = answers(LLM(loaded), kinds)
        remote.close()
    if ranks.rank == 0:
        torch.save(found, results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

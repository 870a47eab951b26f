"""Fully sharded data parallelism (FSDP2, `torch.distributed.fsdp.fully_shard`), for inference.

Each rank keeps a share of every weight, and gathers the other shares of a layer before it runs it. All ranks compute
the same. The weights need to fit only on all devices together, but every token sends all of them between the ranks.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from mygpt.checkpoint.fill import Transform, Weight, WeightTarget
from mygpt.model.forward_context import ContextBuilder
from mygpt.model.gpt import GPT


def shard(model: GPT, mesh: DeviceMesh, device: torch.device, *, cpu_offload: bool) -> None:
    """Shard the weights of a model on the meta device, layer by layer; `put_share` fills them later.

    With `cpu_offload` the shares stay in host memory, and are copied to the device when their layer runs.
    """
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if cpu_offload else OffloadPolicy()
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    model.to_empty(device=torch.device("cpu") if cpu_offload else device)
    model.context_builder = ContextBuilder(model.config).to(device)  # to_empty has emptied its tables too


@torch.no_grad()
def put_share(target: WeightTarget, name: str, weight: Weight, transform: Transform) -> None:
    """Put the rows of a whole tensor that are this rank's into its share of the target's parameter."""
    assert isinstance(weight, Tensor), "quantized weights are not shared out"
    parameter: DTensor = getattr(target.module, target.parameter)
    local = parameter.to_local()
    share = -(-parameter.shape[0] // dist.get_world_size())
    first = dist.get_rank() * share  # of the parameter's rows
    start = target.rows.start if target.rows else 0
    begin, end = max(first, start), min(first + len(local), start + len(weight))
    if begin < end:
        local[begin - first : end - first] = cast(
            Tensor, transform(name, weight[begin - start : end - start])
        )

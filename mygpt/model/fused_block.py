"""A block of the most common kind in one call of a kernel.

Shapes: B sequences, T tokens, C hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mygpt import kernels
from mygpt.model.attention import Attention
from mygpt.model.forward_context import ForwardContext
from mygpt.model.kv_cache import LayerCache
from mygpt.model.linear import FusedLinear, Linear
from mygpt.model.mlp import GatedMLP
from mygpt.model.norm import OnePlusRMSNorm, RMSNorm
from mygpt.parallel.collectives import team_of
from mygpt.quantize.linear import QuantizedLinear

_LINEARS = (Linear, FusedLinear, QuantizedLinear)


class FusedBlock:
    """The parts of `mygpt.model.gpt.Block`, where there are kernels for all of them: `fuse` makes it."""

    def __init__(
        self,
        norms: tuple[nn.RMSNorm, nn.RMSNorm],
        attention: Attention,
        mlp: GatedMLP,
        scale: float,
        matrices: list[kernels.Matrix],
        team: kernels.Team | None,
    ) -> None:
        """`matrices` are what the kernel is told of the four linear layers; the `team` holds their other parts."""
        linears = attention.qkv, attention.output, mlp.gate_up, mlp.down
        self.attention = attention
        # The modules' own dictionaries: a weight that was replaced since is noticed, at little cost.
        self.held = [_weight(module) for module in (*linears, *norms)]
        self.kernel = kernels.Block(
            matrices,
            [norm.weight for norm in norms],
            activation=mlp.activation_name,
            eps=norms[0].eps or 0.0,
            offset=float(isinstance(norms[0], OnePlusRMSNorm)),
            residual_scale=scale,
            team=team,
        )

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of the block makes its own: this one holds the places of the weights in memory."""
        return type(None), ()

    def is_current(self) -> bool:
        """Whether the weights are still those that the kernel was told of."""
        return all(members[name] is member for members, name, member in self.held)

    def __call__(self, x: Tensor, context: ForwardContext, cache: LayerCache) -> Tensor:
        """x (B, T, C) to the same shape."""
        return self.kernel(x, self.attention.kernel_call(context, cache))


def _weight(module: nn.Module) -> tuple[dict[str, Any], str, Any]:
    """What holds a module's weight, the weight's name there, and the weight."""
    if isinstance(module, QuantizedLinear):
        return module._modules, "products", module.products
    return module._parameters, "weight", module.weight


def fuse(
    norms: tuple[nn.Module, nn.Module], attention: nn.Module, mlp: nn.Module, scale: float, x: Tensor
) -> FusedBlock | None:
    """A block's parts as one, or None where one of them is of a kind, or a dtype unlike x's, that no kernel takes."""
    first, second = norms
    if not (type(attention) is Attention and attention.is_plain and type(mlp) is GatedMLP):
        return None
    try:
        team = team_of(attention, mlp)
    except LookupError:
        return None
    if not (isinstance(first, RMSNorm | OnePlusRMSNorm) and isinstance(second, type(first))):
        return None
    parts = attention.qkv.parts
    if mlp.activation_name not in kernels.ACTIVATIONS or parts["q"] > kernels.MAX_GROUP * parts["k"]:
        return None
    matrices = []
    for linear in (attention.qkv, attention.output, mlp.gate_up, mlp.down):
        # of one row: of x only the number of rows and the dtype count
        matrix = linear.kernel_matrix(x[:1, :1]) if type(linear) in _LINEARS else None
        if matrix is None:
            return None
        matrices.append(matrix)
    return FusedBlock((first, second), attention, mlp, scale, matrices, team)

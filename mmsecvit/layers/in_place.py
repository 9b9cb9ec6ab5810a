"""Operations that write their result over an argument where gradients are disabled.

New memory is expensive on CPUs: the operating system has to find and clear each page of it.
"""

import torch
from torch import Tensor, nn


def add(branch: Tensor, x: Tensor) -> Tensor:
    """Return ``branch + x``, and write it over ``branch`` where gradients are disabled.

    Args:
        branch: Any shape. It must own its memory, and nobody may read it afterwards.
        x: Of the same shape.
    """
    if _keeps_arguments() or branch.dtype is not x.dtype:
        return branch + x
    return branch.add_(x)


class GELU(nn.GELU):
    """GELU that is written over its input where gradients are disabled."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute GELU of each element; nobody may read ``x`` afterwards."""
        return super().forward(x) if _keeps_arguments() else torch.ops.aten.gelu_(x)


def _keeps_arguments() -> bool:
    # torch.jit.trace runs a model with gradients and without, and compares the graphs.
    return torch.is_grad_enabled() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]

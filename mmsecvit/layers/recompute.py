"""Intermediate results that the backward pass computes anew instead of keeping them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..compat import takes_saved_tensors_hooks


def apply_recomputed(
    function: Callable[[Tensor], Tensor], cheap: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """Return ``function(cheap(x))``, and keep ``x`` for the backward pass instead of ``cheap(x)``.

    ``cheap`` should be what costs little time next to its result's memory, and keeps ``x`` in any
    case, as norms and activations do. Values and gradients stay the same, to the bit. A compiled
    graph decides by itself what it keeps.

    Args:
        function: What follows. Where it keeps ``cheap(x)`` or a view of it, it gets it back.
        cheap: Function without randomness, whose result is no view of ``x``.
        x: Input of ``cheap``, any shape.

    Returns:
        Result of ``function``.
    """
    device = x.device.type
    # torch 2.4 was the first that tells autocast's state for any device; meta has none.
    if (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        or device == 'meta'
        or not hasattr(torch, 'get_autocast_dtype')
        or not takes_saved_tensors_hooks()
    ):
        return function(cheap(x))
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def compute() -> Tensor:
        y = cheap(x)
        # As autocast does before the linear layer or convolution that follows.
        return y.to(dtype) if enabled and y.dtype is torch.float32 else y

    y = compute()
    if not y.requires_grad:
        return function(y)

    # The hooks outlive this call and would keep `y` itself, so they know its address only.
    base = _base(y)
    address = id(base)

    def pack(kept: Tensor) -> Any:
        if id(_base(kept)) == address:
            return kept.shape, kept.stride(), kept.storage_offset()
        return kept

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        create_graph = torch.is_grad_enabled()
        # With gradients, as in the forward pass: without, `cheap` may overwrite `x`.
        with torch.enable_grad(), torch.autocast(device, dtype, enabled):
            y = compute()
        return (y if create_graph else y.detach()).as_strided(*packed)

    with saved_tensors_hooks(pack, unpack):
        return function(y)


def _base(x: Tensor) -> Tensor:
    return x if x._base is None else x._base

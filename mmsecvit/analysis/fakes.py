"""Run networks on fake tensors, which have shapes and no memory, as on a GPU."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ..errors import InputError
from ..ops.backends.triton import fakes_on_gpu

# Of autocast's list for CUDA, those that these networks call.
FLOAT32_FUNCTIONS = (F.layer_norm, F.group_norm, F.softmax, Tensor.softmax, torch.softmax)


def run_on_fakes(
    network: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype,
    autocast: bool,
    step: bool,
    observer: AbstractContextManager,
) -> None:
    """Run a network, or a training step of it, inside the context of an observer.

    The Triton kernels of this package run as on a GPU on which they have been proven: there,
    ``attention_backend='auto'`` is ``triton``.

    Args:
        network: Network from images to a tensor or tensors, on the CPU. It is changed: its
            parameters lose their values.
        shape: Images, (B, C, H, W).
        dtype: float32, bfloat16 or float16.
        autocast: Whether the parameters are float32 and autocast decides; else they and the images
            have the dtype.
        step: Whether to train: the forward and the backward pass of a mean square of the results,
            without an optimizer. Otherwise, the network evaluates without gradients.
        observer: Mode of torch that sees each operator.

    Raises:
        ValueError: If ``shape`` has not four sizes of at least 1, or if torch is older than 2.7.
    """
    if len(shape) != 4 or min(shape) < 1:
        raise InputError(f'shape must be four sizes of at least 1, got {tuple(shape)}')
    if torch.__version__ < (2, 7):  # type: ignore[operator]
        raise InputError(f'fake tensors need torch 2.7 or newer, got {torch.__version__}')
    from torch._subclasses.fake_tensor import FakeTensorMode

    network.train(step)
    stored = torch.float32 if autocast else dtype
    with FakeTensorMode(allow_non_fake_inputs=True), fakes_on_gpu():
        _make_fake(network, stored)
        images = torch.empty(*shape, dtype=stored)
        with observer:
            with _autocast(dtype) if autocast else nullcontext(), torch.set_grad_enabled(step):
                outs = network(images)
            if step:
                outs = [outs] if isinstance(outs, Tensor) else outs
                sum(out.float().square().mean() for out in outs).backward()


def _make_fake(network: nn.Module, dtype: torch.dtype) -> None:
    """Replace parameters and buffers by fakes; those that are floating get the dtype."""

    def fake(x: Tensor) -> Tensor:
        kept = dtype if x.is_floating_point() else x.dtype
        return torch.empty_strided(x.shape, x.stride(), dtype=kept)

    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake_parameter = nn.Parameter(fake(parameter), parameter.requires_grad)
            setattr(module, name, fake_parameter)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake(buffer))


@contextmanager
def _autocast(dtype: torch.dtype) -> Iterator[None]:
    """Enable autocast on the CPU, where the fakes are, with the list of CUDA for float32."""
    enabled, default = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    # `torch.autocast` refuses this where no GPU is.
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', dtype)
    try:
        with torch.autocast('cpu', dtype), _InFloat32():
            yield
    finally:
        torch.set_autocast_enabled('cuda', enabled)
        torch.set_autocast_dtype('cuda', default)


class _InFloat32(TorchFunctionMode):
    """Convert what autocast converts to float32 on CUDA and not on CPUs."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FLOAT32_FUNCTIONS and torch.is_autocast_enabled('cpu'):
            args, kwargs = tree_map_only(Tensor, _widen, (args, kwargs))
        return func(*args, **kwargs)


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x

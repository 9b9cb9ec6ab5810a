"""Count the memory that a training step needs on a GPU, without a GPU."""

import weakref
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .fakes import run_on_fakes


class Memory(NamedTuple):
    """Memory of a run of a network, in bytes.

    Attributes:
        weights: Parameters and buffers.
        images: The batch of images.
        peak: The most that is alive at once in addition: activations, and gradients.
    """

    weights: int
    images: int
    peak: int

    @property
    def total(self) -> int:
        """All that is alive at the peak."""
        return self.weights + self.images + self.peak


def count_memory(
    network: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype = torch.bfloat16,
    autocast: bool = False,
    step: bool = True,
) -> Memory:
    """Count what tensors need in a forward pass or training step of a network.

    Each tensor counts from the operator that returns it until nothing holds it. What an operator
    needs while it runs is left out, and what the allocator keeps or loses, the CUDA context and an
    optimizer's state. Arguments and errors are those of :func:`run_on_fakes`; the network may be
    one that has run there.
    """
    allocations = _Allocations()
    run_on_fakes(network, shape, dtype, autocast, step, allocations)
    weights = sum(x.nbytes for x in chain(network.parameters(), network.buffers()))
    item_size = (torch.float32 if autocast else dtype).itemsize
    images = torch.Size(shape).numel() * item_size
    return Memory(weights, images, allocations.peak)


class _Allocations(TorchDispatchMode):
    """Add up the memory of tensors that operators inside the context return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, int] = {}
        self._total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        outs = func(*args, **kwargs)
        taken = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(outs):
            if storage._cdata not in taken | self._alive.keys():
                self._add(storage)
        return outs

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._alive[storage._cdata] = storage.nbytes()
        self._total += storage.nbytes()
        self.peak = max(self.peak, self._total)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self._total -= self._alive.pop(key)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, Tensor)]


def memory_table(networks: dict[str, Memory]) -> str:
    """Write the memory of networks in GiB as a Markdown table.

    Args:
        networks: Results of :func:`count_memory` by name.
    """
    lines = [
        '| network | weights | images | activations and gradients | all |',
        '|---|---|---|---|---|',
    ]
    for name, memory in networks.items():
        cells = [f'{size / 2**30:.2f}' for size in (*memory, memory.total)]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)

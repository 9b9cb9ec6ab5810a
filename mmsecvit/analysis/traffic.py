"""Count the bytes that a network moves on a GPU, and its kernels, without a GPU."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..apis.config import load_config
from ..errors import InputError
from ..ops.traffic import Kernel, kernels_of
from .complexity import innermost, part_of, rank_of
from .fakes import run_on_fakes

# Kinds of kernels by beginnings of their names; all others work element by element.
KINDS = {
    'linear layers, products': ('mm', 'addmm', 'bmm', 'baddbmm'),
    'convolutions': ('convolution', '_convolve', '_weight_gradients'),
    'attention': ('_scaled_dot_product', '_forward', '_backward', '_softmax'),
    'order': ('sort', '_similarity', 'argsort'),
    'rotary embedding': ('_rotate',),
    'norms': ('native_layer_norm', 'native_batch_norm', 'cudnn_batch_norm', '_native_batch_norm'),
    'activations': ('gelu', 'relu', 'silu'),
    'conversions of dtype': ('_to_copy',),
    'copies': (
        'clone',
        'copy_',
        'cat',
        'stack',
        'index',
        'gather',
        'scatter',
        'roll',
        'select',
        'slice',
        'constant_pad',
    ),
    'sums': ('sum', 'mean'),
}
OTHER_KIND = 'element by element'
# Operators that write without reading, where they have a tensor to write into.
_WRITERS = ('copy_', 'zero_', 'fill_', 'bernoulli_', 'uniform_', 'normal_')
# Operators that read as many rows as they write.
_ROW_READERS = ('index', 'index_select', 'gather', 'embedding')


class Launch(NamedTuple):
    """A kernel of a part of the network.

    Attributes:
        part: Part of the network, such as ``stage 1``.
        kind: Key of ``KINDS``, or ``OTHER_KIND``.
        kernel: Its name, bytes and FLOPs (two for a multiply-add).
    """

    part: str
    kind: str
    kernel: Kernel


class Roofline(NamedTuple):
    """Constants of an estimate: a kernel takes its bytes or its FLOPs, and its launch.

    Attributes:
        bandwidth: Bytes of memory read and written in a second, 10^12.
        arithmetic: FLOPs in a second, 10^12.
        launch: Time of a launch, microseconds.
    """

    bandwidth: float
    arithmetic: float
    launch: float

    def estimate(self, launches: Iterable[Launch]) -> float:
        """Return the estimated time of kernels one after another, in milliseconds."""
        seconds = (
            max(kernel.bytes / self.bandwidth, kernel.flops / self.arithmetic) / 1e12
            + self.launch / 1e6
            for _, _, kernel in launches
        )
        return 1e3 * sum(seconds)


def build_network(config: str | Path, cfg_options: dict | None = None) -> nn.Module:
    """Build a config's model so that it computes the maps of its backbone and neck, without heads.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        cfg_options: Values by dotted key that override the config's.

    Raises:
        ValueError: If the config has no model with a backbone, or if a package is missing that its
            model needs.
    """
    cfg = load_config(config, cfg_options=cfg_options)
    model = innermost(cfg.get('model') or {})
    if 'backbone' not in model:
        raise InputError(f'config must have a model with a backbone, but {config} has none')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        try:
            network = revert_sync_batchnorm(MODELS.build(model))
        except ImportError as error:
            raise InputError(f'{config} needs a package that is not installed: {error}') from error
    network.forward = network.extract_feat
    return network


def count_traffic(
    network: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype = torch.bfloat16,
    autocast: bool = False,
    step: bool = False,
) -> list[Launch]:
    """List the kernels that a network launches on a GPU in eager mode, and what they move.

    An operator of torch that is no view is one kernel, and moves each tensor that it takes or
    returns once: caches are left out, and what an operator does in several passes or kernels.
    Arguments and errors are those of :func:`run_on_fakes`, which says how the network runs.

    Returns:
        The launches in their order.
    """
    counter = _Counter(network)
    run_on_fakes(network, shape, dtype, autocast, step, counter)
    return counter.launches


class _Counter(TorchDispatchMode):
    """List the kernels of the operators inside the context."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: list[Launch] = []
        self._prefix = '' if hasattr(network, 'backbone') else 'backbone.'

    def __enter__(self) -> '_Counter':
        from torch.utils.module_tracker import ModuleTracker

        self._tracker = ModuleTracker()
        self._tracker.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._tracker.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        outs = func(*args, **kwargs)
        part = self._part()
        for kernel in list_kernels(func, args, kwargs, outs):
            self.launches.append(Launch(part, _kind(kernel.name), kernel))
        return outs

    def _part(self) -> str:
        """Return the part of the network that runs now, forward or backward."""
        names = [name.partition('.')[2] for name in self._tracker.parents]
        parts = {part_of(self._prefix + name) for name in names if name} - {'backbone'}
        # Going backward, the tracker does not leave all modules of later parts.
        return min(parts, key=rank_of, default='backbone')


def list_kernels(func: Any, args: tuple, kwargs: dict, outs: Any) -> Iterator[Kernel]:
    """List the kernels of one call of an operator."""
    from torch.utils.flop_counter import flop_registry

    if func.namespace == 'mmsecvit':
        names = [argument.name for argument in func._schema.arguments]
        yield from kernels_of(func._opname, dict(zip(names, args, strict=False)) | kwargs)
        return
    # The fakes are on the CPU, where the fused attention has another name.
    name = func._overloadpacket.__name__.replace('_for_cpu', '')
    written = _tensors(outs)
    read = _tensors((args, kwargs))
    if not written or 'empty' in name:
        return
    storages = {x.untyped_storage()._cdata for x in read}
    is_view = all(x.untyped_storage()._cdata in storages for x in written)
    if is_view and not func._schema.is_mutable:
        return
    if name in _WRITERS:
        read = read[1:]
    elif name.endswith('_like') or name.startswith('new_'):
        read = []
    size_written = sum(map(_size, written))
    size_read = sum(map(_size, read))
    if name in _ROW_READERS:
        size_read = size_written + sum(_size(x) for x in read if not x.is_floating_point())
    count_flops = flop_registry.get(getattr(torch.ops.aten, name, None))
    flops = count_flops(*args, **kwargs, out_val=outs) if count_flops else 0
    if name == 'convolution_backward' and args[9] > 1:
        # torch <= 2.11 counts each group with the channels of all.
        grad_out, _, weight = args[:3]
        flops = 2 * grad_out.numel() * weight[0].numel() * sum(args[10][:2])
    yield Kernel(name, size_read + size_written, flops)


def _tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in arguments or results, each once."""
    leaves = tree_leaves(tree)
    return list({id(x): x for x in leaves if isinstance(x, Tensor)}.values())


def _size(x: Tensor) -> int:
    """Return the bytes of a tensor; what is expanded has one."""
    sizes = (size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
    return math.prod(sizes) * x.element_size()


def _kind(name: str) -> str:
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), OTHER_KIND)


def traffic_table(networks: dict[str, list[Launch]], roofline: Roofline) -> str:
    """Write the sums of networks as a Markdown table.

    Args:
        networks: Results of :func:`count_traffic` by name.
        roofline: Constants of the estimate.
    """
    lines = [
        '| network | GB | kernels | TFLOP | estimate (ms) |',
        '|---|---|---|---|---|',
    ]
    for name, launches in networks.items():
        gigabytes, kernels = _sums(launches)
        teraflops = sum(kernel.flops for _, _, kernel in launches) / 1e12
        estimate = roofline.estimate(launches)
        lines.append(f'| {name} | {gigabytes:.2f} | {kernels} | {teraflops:.2f} | {estimate:.1f} |')
    return '\n'.join(lines)


def traffic_by(group: str, networks: dict[str, list[Launch]]) -> str:
    """Write gigabytes and kernels of each group as a Markdown table, networks side by side.

    Args:
        group: ``part`` or ``kind``, attributes of :class:`Launch`.
        networks: Results of :func:`count_traffic` by name.
    """
    groups = dict.fromkeys(getattr(x, group) for launches in networks.values() for x in launches)
    order = rank_of if group == 'part' else [*KINDS, OTHER_KIND].index
    lines = [f'| {group} | ' + ' | '.join(networks) + ' |', '|---' * (len(networks) + 1) + '|']
    for name in sorted(groups, key=order):
        cells = []
        for launches in networks.values():
            gigabytes, kernels = _sums([x for x in launches if getattr(x, group) == name])
            cells.append(f'{gigabytes:.2f} in {kernels}' if kernels else '')
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _sums(launches: list[Launch]) -> tuple[float, int]:
    """Return the gigabytes (10^9) and the number of kernels."""
    return sum(kernel.bytes for _, _, kernel in launches) / 1e9, len(launches)

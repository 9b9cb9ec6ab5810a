"""Workarounds for faults and versions of other packages: one function or class each.

A docstring says, in this order: the package and its versions with the fault, the fault, what the
workaround does, the upstream issue or commit where one is known, and when the workaround can go.
A test in ``tests/test_compat.py`` fails once it is no longer needed; where none can, the docstring
says so. These workarounds are where they are used, with docstrings or comments of the same kind:
``wrap_model`` in ``apis/runner.py``, ``infer`` and ``_INFERENCERS`` in ``apis/inference.py``,
``without_sync_batch_norm`` in ``apis/config_changes.py``, ``_read_pt2`` in
``apis/exported_files.py``, ``_save_best_checkpoint`` in ``engine/hooks/checkpoint.py``,
``read_checkpoint`` in ``checkpoints/reading.py``, ``_WorkerError`` in ``datasets/file_backend.py``,
``is_static`` in ``ops/clustering.py``, ``LARGEST_CUDA_BATCH`` and ``_rows_by_place`` in
``ops/backends/sdpa.py``, ``rotate`` in ``layers/rotary.py``, the autograd functions in
``ops/fused.py`` and ``ops/backends/triton.py``, and the convolutions' gradients in
``analysis/traffic.py``.

Backbones import this module: what needs more than torch and the basic packages of mmengine
imports it inside the function.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from torch import distributed, nn

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.optim import OptimWrapper
    from mmengine.runner import IterBasedTrainLoop


def load_fsdp_optimizer_state(model: nn.Module, wrapper: OptimWrapper, state_dict: dict) -> None:
    """Load a full state of an optimizer into the shards of FSDP.

    mmengine <= 0.10.7 and OneDL's <= 0.10.12 (``FSDPStrategy.load_optim_state_dict``): they pass
    the arguments of ``optim_state_dict_to_load`` in the order of torch 2.0. torch >= 2.1 reordered
    them, and stops with "unhashable type: 'dict'". This function passes them by name.
    Fixed upstream in 42aa0ebb; remove with the first release that has it.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    state = FullyShardedDataParallel.optim_state_dict_to_load(
        model=model, optim=wrapper.optimizer, optim_state_dict=state_dict
    )
    wrapper.load_state_dict(state)


def full_fsdp_state_without_offload() -> dict:
    """Return a ``state_dict_cfg`` for whole checkpoints of a model that FSDP trains on CPUs.

    torch <= 2.11 (``FlatParamHandle.to_cpu``): where ``offload_to_cpu`` is set and the weights are
    on the CPU already, it frees the storage that it then reads, and the process crashes. mmengine's
    ``state_dict_cfg='full'`` sets it. This config is the same without it.
    Reported in https://github.com/pytorch/pytorch/issues/188989; remove when that is fixed. There
    is no test, since the fault ends the process.
    """
    kept = dict(rank0_only=True, offload_to_cpu=False)
    return dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig', **kept),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig', **kept),
    )


def join_gloo() -> None:
    """Join the process group that torchrun describes, over gloo, and leave it at exit.

    mmengine <= 0.10.7 and OneDL's <= 0.10.12 (``init_dist``): they call ``torch.cuda.set_device``
    for every backend, which fails without a GPU. A runner leaves out ``init_dist`` where a process
    group exists, so this function makes one. Remove when ``init_dist`` works for gloo.

    torch <= 2.11: a thread of gloo that is there when Python ends may abort the process. The group
    is therefore destroyed before. Discussed in https://github.com/pytorch/pytorch/pull/179291;
    remove when torch does so itself. There is no test of this, since only some runs abort.
    """
    distributed.init_process_group('gloo')
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    # The threads end with the last reference to the group, and a model in a cycle has one.
    gc.collect()
    distributed.destroy_process_group()


def restart_workers(loop: IterBasedTrainLoop) -> None:
    """Start the workers of an iteration-based loop again, if they run before the loop does.

    mmengine <= 0.10.7 starts them when it builds the loop, before a hook can set their
    ``worker_init_fn``. OneDL's 0.10.12 starts them with the first batch. Remove when no supported
    version starts them early. There is no test, since the installed version may not have the fault.
    """
    iterator = loop.dataloader_iterator
    if iterator._iterator is not None and loop.dataloader.num_workers:
        loop.dataloader._iterator = None  # kept there if workers are persistent
        loop.dataloader_iterator = type(iterator)(loop.dataloader)


def kill_children() -> None:
    """Kill this process's children, such as the workers of data loaders, without an error.

    torch <= 2.11 (``torch.utils.data._utils.signal_handling``) handles SIGCHLD: where a worker was
    killed, it raises an error at any later line of the main thread. This function removes the
    handler until all are killed. Remove when a data loader has a method to end its workers at once.
    There is no test, since that method has no name yet.
    """
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def seed_torch(seed: int) -> None:
    """Seed torch's random numbers on all devices.

    torch <= 2.11: ``torch.manual_seed`` also queues the seed for CUDA, with the formatted call
    stack, where there is no GPU, which takes over a millisecond. On a CPU, this function seeds the
    CPU's generator only. Remove when ``torch.manual_seed`` queues nothing there.
    """
    if get_device() == 'cpu':
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def own_visualizer(parts: dict) -> dict:
    """Return a runner's parts with a visualizer of its own.

    mmengine <= 0.10.7 and OneDL's <= 0.10.12 (``ManagerMixin.get_instance``): they build one
    visualizer for each name, and the toolboxes' configs all give it the same name: a second run in
    a process would write into the folder of the first. Without a name, mmengine takes the run's.
    Remove when a runner makes its own visualizer.
    """
    given = parts.get('visualizer')
    if not isinstance(given, dict):
        return parts
    return dict(parts, visualizer={key: given[key] for key in given if key != 'name'})


def without_empty_env_cfg(parts: dict) -> dict:
    """Return a runner's parts without an ``env_cfg`` of None.

    mmengine <= 0.10.7 and OneDL's <= 0.10.12 (``FlexibleRunner.from_cfg``): they pass None where a
    config has no ``env_cfg``, in place of the default, and stop. Remove when they pass the default.
    """
    return {key: part for key, part in parts.items() if key != 'env_cfg' or part is not None}


def without_empty_hooks(parts: dict) -> dict:
    """Return a runner's parts with a hook that does nothing for each default hook that is None.

    mmengine <= 0.10.7 and OneDL's <= 0.10.12 (``register_default_hooks``): None switches off a hook
    of mmengine's own defaults, but ends in an AssertionError without a message for another name,
    such as ``interruption``. Remove when None switches off a hook of any name.
    """
    from mmengine.hooks import Hook

    hooks = parts.get('default_hooks') or {}
    given = {name: Hook() if hook is None else hook for name, hook in hooks.items()}
    return dict(parts, default_hooks=given)


def wrapper_for_cpus(model_wrapper_cfg: dict | None, cfg: Config) -> dict:
    """Return the config that wraps a model for several processes on CPUs.

    mmengine <= 0.10.7 and OneDL's <= 0.10.12 (``Runner.wrap_model``): they pass ``device_ids`` to
    torch's ``DistributedDataParallel``, which refuses them for a model on the CPU. Remove when they
    pass none there.
    """
    default = dict(
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    return dict(model_wrapper_cfg or default, device_ids=None)


def takes_saved_tensors_hooks() -> bool:
    """Return whether ``saved_tensors_hooks`` can be used here.

    They can if no outer hooks are active and torch allows hooks. torch <= 2.11
    (``saved_tensors_hooks``) calls only the innermost hooks, so that an outer checkpoint, or
    ``save_on_cpu``, does not get what is saved inside; and ``torch.func`` refuses all hooks. No
    public function tells of either. It can go when hooks nest.
    """
    autograd = torch._C._autograd
    outer = getattr(autograd, '_top_saved_tensors_default_hooks', lambda ignore_tracing: None)
    enabled = getattr(autograd, '_saved_tensors_hooks_is_enabled', lambda: True)
    return enabled() and outer(True) is None


def drop_scope_of_visualizer(cfg: Config) -> None:
    """Remove the scope that mmengine writes into a visualizer inherited from another scope.

    mmpretrain <= 1.2.0 and OneDL's <= 1.3.6 (``tools/visualization/browse_dataset.py``): they pass
    all of ``cfg.visualizer`` except its type to the class, which has no argument ``_scope_``.
    Remove when the tool builds the visualizer by the registry.
    """
    if cfg.get('visualizer'):
        cfg.visualizer.pop('_scope_', None)


def give_renderer_to_adjust_bbox() -> None:
    """Let ``adjust_bbox`` of matplotlib be called without a renderer.

    mmpretrain <= 1.2.0 and OneDL's <= 1.3.6 (``tools/visualization/browse_dataset.py``): they call
    this private function without the argument that matplotlib >= 3.11 requires. This replaces it in
    the whole process by one that adds the figure's own renderer. Remove when the tool does without
    the function.
    """
    module: Any = import_module('matplotlib._tight_bbox')
    adjust_bbox = module.adjust_bbox
    renderer = inspect.signature(adjust_bbox).parameters.get('renderer')
    if renderer is not None and renderer.default is renderer.empty:
        module.adjust_bbox = lambda figure, box: adjust_bbox(
            figure, box, figure.canvas.get_renderer()
        )


def _history_method(owner: object, name: str) -> object:
    """Replace ``getattr`` in pickles of a HistoryBuffer, which look up their own methods."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(f'GLOBAL getattr({owner}, {name})')
    return getattr(HistoryBuffer, name)


# NumPy 2 renamed the module of the functions that rebuild arrays and scalars: a file can have
# either name.
_IN_MMENGINE_CHECKPOINTS = [
    HistoryBuffer,
    (_history_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(t)) for t in (np.float32, np.float64, np.int64)},
    *(
        (value.__reduce__()[0], f'numpy.{core}.multiarray.{name}')
        for value, name in ((np.empty(0), '_reconstruct'), (np.float64(0), 'scalar'))
        for core in ('core', '_core')
    ),
]


def trusting_mmengine() -> AbstractContextManager:
    """Return a context in which torch reads mmengine's own checkpoints with ``weights_only=True``.

    mmengine <= 0.10.7 and OneDL's <= 0.10.12 save the history of scalars as objects, which torch
    refuses. In the context torch knows the classes of these objects and no others; ``getattr``,
    which their pickles call, finds their own methods only. Remove when mmengine saves plain data.

    torch < 2.6 refuses names that it does not know itself: it reads weights only.
    torch <= 2.11 (``safe_globals``) forgets on exit the names that the caller had added before,
    so this function adds only new ones.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return nullcontext()
    known = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals(
        [name for name in _IN_MMENGINE_CHECKPOINTS if name not in known]
    )


def stable_sort_in_onnx(
    x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """Sort the last dimension in rising order, as an ONNX graph: a translation of ``sort.stable``.

    torch <= 2.11 (``torch.onnx.export``) has none. Among equal values, ONNX's TopK takes the lower
    index first, so it is stable. Remove when ``torch.onnx.export`` translates ``sort.stable``.
    """
    from onnxscript import opset18

    return opset18.TopK(x, opset18.Shape(x, start=-1), axis=-1, largest=0, sorted=1)


def adaptive_average_in_onnx(x: Any, output_size: list[int]) -> Any:
    """Average maps, (B, C, H, W), to (B, C, h, w), as an ONNX graph, for every height and width.

    torch <= 2.11 (``torch.onnx.export``) decomposes ``adaptive_avg_pool2d`` by branches on the
    size that it traces: files of dynamic sizes stop at others, or compute something else. Remove
    when such a file takes every size.
    """
    from onnxscript import opset18

    op: Any = opset18  # its annotations do not know Python's numbers

    def weights(start: int, parts: int) -> Any:  # (parts, length): rows sum to one
        length = op.Shape(x, start=start, end=start + 1)
        part = op.Constant(value_ints=list(range(parts)))
        first = op.Div(op.Mul(part, length), parts)
        # Round up.
        end = op.Div(op.Add(op.Mul(op.Add(part, 1), length), parts - 1), parts)
        first, end = (op.Unsqueeze(edge, [1]) for edge in (first, end))
        place = op.Range(0, op.Squeeze(length), 1)
        inside = op.And(op.GreaterOrEqual(place, first), op.Less(place, end))
        return op.Div(op.CastLike(inside, x), op.CastLike(op.Sub(end, first), x))

    rows, columns = (weights(i, parts) for i, parts in zip((2, 3), output_size, strict=True))
    return op.MatMul(op.MatMul(rows, x), op.Transpose(columns, perm=[1, 0]))


@contextmanager
def without_warnings_of_export() -> Iterator[None]:
    """Return a context in which an export does not warn of its own deprecated calls.

    torch <= 2.11 (``torch.onnx.export``) copies objects of the class ``LeafSpec``, which torch 2.11
    deprecates, and torchvision <= 0.26 (``_meta_registrations``) calls ``create_unbacked_symint``.
    A user can change neither. Remove when they do not warn.
    """
    with warnings.catch_warnings():
        for deprecated in (r'isinstance\(treespec, LeafSpec\)', 'create_unbacked_symint'):
            warnings.filterwarnings('ignore', f'`{deprecated}` is deprecated', FutureWarning)
        yield


def upsample_at_every_size(head: nn.Module) -> None:
    """Replace mmseg's ``Upsample`` by whole factors in a head by torch's, with the same result.

    mmseg <= 1.2.2 and OneDL's <= 1.4.2: ``Upsample`` takes ``int`` of a product with a float, which
    in a graph for all sizes is the size of the traced image. Remove when such a graph has the size
    of each image.
    """
    from mmseg.models.utils import Upsample

    for module in [*head.modules()]:
        for name, child in module.named_children():
            factor = getattr(child, 'scale_factor', None)
            if isinstance(child, Upsample) and isinstance(factor, float) and factor.is_integer():
                setattr(module, name, nn.Upsample(None, factor, child.mode, child.align_corners))

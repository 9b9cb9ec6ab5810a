"""Change in a config what a tool's options ask for, and what a run needs."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..checkpoints import CheckpointError, CheckpointReader
from ..datasets import type_name
from ..engine.hooks import find_last_checkpoint, list_regular_checkpoints
from ..errors import InputError
from .config import ConfigError

# Transforms of mmpretrain that crop to a size.
ONE_SIZE = ('RandomResizedCrop', 'EfficientNetRandomCrop', 'EfficientNetCenterCrop', 'CenterCrop')


def set_amp(cfg: Config) -> None:
    """Train with automatic mixed precision and a dynamic loss scale."""
    if not cfg.get('optim_wrapper'):
        raise InputError('amp needs an optim_wrapper in the config')
    kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(f'amp replaces an OptimWrapper, got a config with {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the run's actual batch size."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise InputError('auto_scale_lr needs auto_scale_lr.base_batch_size in the config')
    cfg.auto_scale_lr.enable = True


def set_tensorboard(cfg: Config) -> None:
    """Add TensorBoard to the visualizer's backends, which the log writes to."""
    if find_spec('tensorboard') is None:
        raise InputError('tensorboard needs the package of that name: pip install tensorboard')
    if 'visualizer' not in cfg:
        raise InputError('tensorboard needs a visualizer in the config')
    backends = cfg.visualizer.get('vis_backends') or [dict(type='LocalVisBackend')]
    cfg.visualizer.vis_backends = [*backends, dict(type='TensorboardVisBackend')]


def set_resume(cfg: Config, resume: str | None, reader: CheckpointReader) -> str:
    """Resume from a checkpoint, or from the latest one in the work directory (``auto``).

    Returns:
        A sentence for the log that tells what was filled in from the checkpoint; empty if nothing
        was.

    Raises:
        FileNotFoundError: If ``resume`` does not exist.
        CheckpointError: If the checkpoint is damaged, holds code, or is not of a training run.
        FileExistsError: If the work directory holds checkpoints, which a new run would overwrite,
            and ``resume`` is None.
    """
    if resume is None and cfg.get('resume'):
        resume = cfg.get('load_from') or 'auto'
    if resume is None:
        earlier = sorted(Path(cfg.work_dir).glob('*.pth'))
        if earlier:
            raise FileExistsError(
                f'work_dir {cfg.work_dir} holds checkpoints of an earlier run ({earlier[0].name}): '
                'add --resume to continue it, or choose another --work-dir'
            )
        return ''
    if resume != 'auto' and not Path(resume).exists():
        raise FileNotFoundError(f'resume must be a checkpoint, but {resume} does not exist')
    path = find_last_checkpoint(cfg.work_dir) if resume == 'auto' else Path(resume)
    cfg.resume = path is not None
    if path is None:
        return ''
    cfg.load_from = str(path)
    if path.is_dir():
        if 'strategy' in cfg:
            return ''  # shards, which some strategies write
        raise CheckpointError(f'resume must be a file, but {path} is a folder')
    try:
        checkpoint = reader.read(path)
    except CheckpointError as error:
        others = [p for p in list_regular_checkpoints(cfg.work_dir) if p.name != path.name]
        if resume != 'auto' or not others:
            raise
        raise CheckpointError(f'{error}; {others[-1]} is there to --resume from') from error
    parts = ('meta', 'state_dict', 'message_hub', 'optimizer')
    content = checkpoint if isinstance(checkpoint, dict) else {}
    missing = [part for part in parts if not isinstance(content.get(part), dict)]
    if not missing:
        missing = [f"meta['{key}']" for key in ('epoch', 'iter') if key not in content['meta']]
    if missing:
        advice = '' if 'state_dict' in missing else ': give its weights to --pretrained'
        raise CheckpointError(
            f'checkpoint {path} cannot be resumed from, since it has no {", ".join(missing)}'
            f'{advice}'
        )
    # mmengine drew this seed at the start; it determines the order of the data.
    seed = checkpoint['meta'].get('seed')
    if seed is None or cfg.get('randomness', {}).get('seed') is not None:
        return ''
    cfg.merge_from_dict({'randomness.seed': seed})
    return f'Filled in from {path}: randomness.seed={seed}.'


def fill_in_engine(cfg: Config) -> str:
    """Name this package's hooks, loop and strategy where a config has mmengine's defaults.

    The configs of this package name them already. Hooks, loops and strategies of other types stay.
    ``InterruptionHook`` and ``StepSeedHook`` are filled in together, and only if the config names
    neither of them and has no ``default_hooks.interruption``. A hook set to None stays off.

    Returns:
        A sentence for the log that tells what was filled in; empty if nothing was.

    Raises:
        ValueError: If a hook other than ``default_hooks.checkpoint`` has no type.
    """
    hooks = cfg.get('default_hooks') or {}
    changes: dict[str, Any] = {}
    checkpoint = hooks.get('checkpoint', {})
    if checkpoint is not None and not type_name(checkpoint):
        # mmengine's default, which has another interval than the class.
        default = dict(type='AtomicCheckpointHook', interval=1)
        changes['default_hooks.checkpoint'] = {**default, **checkpoint}
    elif type_name(checkpoint) == 'CheckpointHook':
        changes['default_hooks.checkpoint.type'] = 'AtomicCheckpointHook'
    settings = {f'default_hooks.{name}': hook for name, hook in hooks.items()}
    settings |= {f'custom_hooks.{i}': hook for i, hook in enumerate(cfg.get('custom_hooks') or ())}
    for setting, hook in settings.items():
        if isinstance(hook, dict) and not type_name(hook) and setting not in changes:
            raise ConfigError(f'{setting} must have a type, got {hook}')
    named = {type_name(hook) for hook in settings.values()}
    if 'interruption' not in hooks and not named & {'InterruptionHook', 'StepSeedHook'}:
        changes['default_hooks.interruption.type'] = 'InterruptionHook'
        sampler_seed = hooks.get('sampler_seed', dict(type='DistSamplerSeedHook'))
        if type_name(sampler_seed) == 'DistSamplerSeedHook':
            changes['default_hooks.sampler_seed.type'] = 'StepSeedHook'
    train_cfg = cfg.get('train_cfg') or {}
    left_out = ''
    if type_name(train_cfg) == 'EpochBasedTrainLoop' or train_cfg.get('by_epoch'):
        if 'by_epoch' in train_cfg:  # mmengine takes either this or a type
            left_out = f', without train_cfg.by_epoch={train_cfg.pop("by_epoch")}'
        changes['train_cfg.type'] = 'ResumableEpochLoop'
    modules = ['mmsecvit']
    if type_name(cfg.get('strategy')) == 'FSDPStrategy':
        changes['strategy.type'] = 'ResumableFSDPStrategy'
        modules.append('mmsecvit.engine.strategies')
    if not changes:
        return ''
    cfg.default_hooks = hooks  # merging refuses None
    cfg.merge_from_dict(changes)
    add_imports(cfg, modules)
    changed = ', '.join(f'{key}={value!r}' for key, value in changes.items())
    return f"tools/train.py replaced mmengine's defaults in the config: {changed}{left_out}."


def fill_in_loaders(cfg: Config, splits: Iterable[str]) -> str:
    """Give a classifier's data loaders what mmpretrain's own tools give them.

    These are ``pin_memory``, ``persistent_workers``, and ``collate_fn`` where all images leave the
    pipeline with one size. (Images of several sizes stay a list, which the data preprocessor pads.)
    What a config has stays.

    Returns:
        A sentence for the log that tells what was filled in; empty if nothing was.
    """
    if cfg.get('default_scope') != 'mmpretrain':
        return ''
    changed = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict):
            continue
        filled_in: dict[str, Any] = dict(pin_memory=True)
        if loader.get('num_workers'):
            filled_in['persistent_workers'] = True
        if _makes_one_size((loader.get('dataset') or {}).get('pipeline')):
            filled_in['collate_fn'] = dict(type='default_collate')
        for name, value in filled_in.items():
            if name not in loader:
                loader[name] = value
                changed.append(f'{split}_dataloader.{name}={value!r}')
    if not changed:
        return ''
    return f"Filled in, as mmpretrain's own tools do: {', '.join(changed)}."


def _makes_one_size(pipeline: object) -> bool:
    """Return whether a classifier's pipeline surely makes images of one size."""
    for transform in pipeline if isinstance(pipeline, (list, tuple)) else ():
        kind = type_name(transform)
        if kind in ONE_SIZE or (kind == 'Resize' and not transform.get('keep_ratio')):
            return True
    return False


def add_imports(cfg: Config, modules: list[str]) -> None:
    """Import modules now and wherever the config is loaded."""
    for module in modules:
        import_module(module)
    custom_imports = cfg.get('custom_imports') or {}
    imports = custom_imports.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    imports += [module for module in modules if module not in imports]
    cfg.custom_imports = dict(custom_imports, imports=imports)


def set_visualization(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Draw predictions during a test, in windows or into a folder.

    Args:
        cfg: Config whose ``default_hooks.visualization`` is the hook of its toolbox.
        show: Whether to open windows.
        show_dir: Folder for the pictures, or None.
        wait_time: Time that a window stays open, in seconds.

    Raises:
        ValueError: If the config has no ``default_hooks.visualization``.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise InputError('show and show_dir need default_hooks.visualization in the config')
    hook.update(show=show, wait_time=wait_time)
    folder = str(Path(show_dir).absolute()) if show_dir else None
    # The toolboxes' hooks differ in the switch, in the default interval, and in where the folder is
    # set.
    if cfg.default_scope == 'mmdet':
        hook.update(draw=True, test_out_dir=folder)
    elif cfg.default_scope == 'mmseg':
        hook.update(draw=True, interval=1)
        if folder:
            cfg.merge_from_dict({'visualizer.save_dir': folder})
    else:
        hook.update(enable=True, interval=1, out_dir=folder)


def without_sync_batch_norm(node: Any) -> Any:
    """Return a copy of a model's config with plain batch norms, since synchronized ones need CUDA.

    mmengine's ``revert_sync_batchnorm`` takes a built model. mmcv <= 2.1.0 and OneDL's <= 2.3.6
    cannot build ``MMSyncBN`` in a single process, which has no process group. Remove when they can,
    and use mmengine's function.
    """
    if isinstance(node, dict):
        copy = ConfigDict({key: without_sync_batch_norm(value) for key, value in node.items()})
        # Both types have a class of the third name.
        if type_name(copy) in ('SyncBN', 'MMSyncBN', 'SyncBatchNorm'):
            copy.type = 'BN'
        return copy
    if isinstance(node, (list, tuple)):
        return type(node)(without_sync_batch_norm(child) for child in node)
    return node

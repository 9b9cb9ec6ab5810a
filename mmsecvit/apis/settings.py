"""Check the settings of a config before anything is built."""

import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from ..datasets import type_name
from ..datasets.nodes import find_class, find_nodes
from .augmentation import find_lost_changes
from .best_metric import check_monitored_metrics, find_schedulers
from .class_counts import check_class_counts
from .config import ConfigError
from .losses import check_losses
from .metric_options import check_metric_options
from .schedules import EPOCH_LOOPS, check_schedules

OURS = ('SecViT', 'SECSwin', 'SECFasterViT')
# What a data loader without worker processes does not take.
OF_WORKERS = ('persistent_workers', 'prefetch_factor', 'timeout', 'multiprocessing_context')
# Samplers that never end, of mmengine and of mmdet.
ENDLESS = ('InfiniteSampler', 'MultiSourceSampler', 'GroupMultiSourceSampler')
# Kinds of matplotlib's output that are no windows.
NO_WINDOWS = ('agg', 'cairo', 'pdf', 'pgf', 'ps', 'svg', 'template')


def check_settings(cfg: Config, splits: Iterable[str]) -> list[str]:
    """Raise a ConfigError if settings are certain to end in a wrong result or a lost run.

    Args:
        cfg: Config of a whole experiment. What has one right meaning is changed in it.
        splits: Which of ``train``, ``val`` and ``test`` to check.

    Returns:
        Sentences for the log on what is suspicious, or was changed in the config.

    Raises:
        ConfigError: If a setting cannot work, or does not fit another one.
    """
    splits = list(splits)
    _check_pipelines(cfg, splits)
    messages = [*_mend_loaders(cfg, splits), *_mend_pretrained(cfg)]
    _check_backbone(cfg)
    messages += [*check_class_counts(cfg, splits), *check_metric_options(cfg, splits)]
    messages += find_lost_changes(cfg, splits)
    if cfg.get('default_scope') == 'mmseg':
        _check_windows(cfg, splits)
    if 'train' in splits:
        _check_layer_decay(cfg)
        check_losses(cfg)
        messages += [*check_monitored_metrics(cfg), *_check_schedule(cfg), *check_schedules(cfg)]
    return messages


def check_display() -> None:
    """Raise a ConfigError if windows cannot be shown, which matplotlib does not say."""
    from matplotlib import pyplot

    headless = sys.platform.startswith('linux') and not (
        os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')
    )
    backend = pyplot.get_backend().lower()
    if headless or backend in NO_WINDOWS:
        reason = 'neither DISPLAY nor WAYLAND_DISPLAY is set' if headless else ''
        raise ConfigError(
            'show needs a display for its windows, but '
            f'{reason or f"matplotlib draws with {backend!r}, which has none"}: '
            'use --show-dir to write pictures into a folder'
        )


def _check_pipelines(cfg: Config, splits: list[str]) -> None:
    """Raise a ConfigError if a transform of a data set is neither a dict nor a function."""
    for name in [f'{split}_dataloader' for split in splits]:
        for setting, node in find_nodes(cfg.get(name), name, lambda node: 'pipeline' in node):
            for i, step in enumerate(node.pipeline or ()):
                if not isinstance(step, dict) and not callable(step):
                    raise ConfigError(
                        f'{setting}.pipeline.{i} must be a dict with the type of a transform, got '
                        f'{step!r}'
                    )


def _check_backbone(cfg: Config) -> None:
    """Raise a ConfigError if a backbone of ours gets an argument that it does not take."""
    for setting, node in find_nodes(cfg.get('model'), 'model', lambda x: type_name(x) in OURS):
        cls = find_class(node, MODELS, cfg.get('default_scope'))
        taken = [*inspect.signature(cls).parameters]
        for name in node.keys() - {'type', '_scope_', *taken}:
            similar = get_close_matches(name, taken, 1)
            raise ConfigError(
                f'{setting}.{name} is no argument of {type_name(node)}: '
                + (f'{similar[0]} may be meant' if similar else f'it takes {", ".join(taken)}')
            )


def _check_layer_decay(cfg: Config) -> None:
    """Raise a ConfigError if mmdet or mmseg would number the layers of a network unknown to it."""
    constructor = type_name(dict(type=(cfg.get('optim_wrapper') or {}).get('constructor')))
    backbone = (cfg.get('model') or {}).get('backbone')
    kind = type_name(backbone if isinstance(backbone, dict) else None)
    if kind in OURS and constructor in (
        'LearningRateDecayOptimizerConstructor',
        'LayerDecayOptimizerConstructor',
    ):
        raise ConfigError(
            f'optim_wrapper.constructor {constructor} does not know the layers of a {kind}: take '
            "'LayerDecayOptimWrapperConstructor' with paramwise_cfg=dict(layer_decay_rate=0.8)"
        )


def _mend_loaders(cfg: Config, splits: list[str]) -> Iterator[str]:
    """Remove options that need worker processes from loaders with ``num_workers=0``."""
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, dict) and loader.get('num_workers', 0) == 0:
            left_out = [name for name in OF_WORKERS if loader.get(name)]
            for name in left_out:
                loader.pop(name)
            if left_out:
                yield (
                    f'{split}_dataloader.num_workers is 0: {", ".join(left_out)} is left out, '
                    'which needs worker processes.'
                )


def _mend_pretrained(cfg: Config) -> Iterator[str]:
    """Remove ``pretrained=None`` where a class does not take it.

    Yields:
        Sentences for the log on what is removed.

    Raises:
        ConfigError: If ``pretrained`` names weights and a class does not take it.
    """
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    for name, part in (('model', model), ('model.backbone', backbone)):
        if 'pretrained' not in part:
            continue
        # mmseg's models hand it on to their backbones.
        takers = [part, backbone] if cfg.get('default_scope') == 'mmseg' else [part]
        path = part.get('pretrained')
        if path is None:
            takers = [part]
        if all(_takes(taker, 'pretrained', cfg.get('default_scope')) for taker in takers):
            continue
        if path is not None:
            raise ConfigError(
                f"model.backbone.init_cfg must be dict(type='Pretrained', "
                f'checkpoint={path!r}) instead of {name}.pretrained, which '
                f'{" and ".join(dict.fromkeys(map(type_name, takers)))} does not take'
            )
        part.pop('pretrained')
        yield f'{name}.pretrained=None is left out, which {type_name(part)} does not take.'


def _takes(part: ConfigDict, argument: str, scope: str | None) -> bool:
    """Return False only if it is certain that a class does not take an argument."""
    cls = find_class(part, MODELS, scope)
    if not isinstance(cls, type):
        return True
    parameters = inspect.signature(cls).parameters
    return argument in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def _check_windows(cfg: Config, splits: list[str]) -> None:
    """Check how a segmenter's sliding windows cover an image."""
    model = cfg.get('model') or {}
    test_cfg = model.get('test_cfg') or {}
    if splits == ['train'] or test_cfg.get('mode') != 'slide':
        return
    for name in ('crop_size', 'stride'):
        pair = test_cfg.get(name)
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or min(pair) < 1:
            raise ConfigError(
                f"model.test_cfg.{name} must be a height and a width with mode='slide', got {pair}"
            )
    crop, stride = tuple(test_cfg['crop_size']), tuple(test_cfg['stride'])
    backbone = find_class(model.get('backbone') or {}, MODELS, 'mmseg')
    if min(crop) < 32 and getattr(backbone, '__module__', '').startswith('mmsecvit.'):
        raise ConfigError(
            f'model.test_cfg.crop_size must be at least 32 with {backbone.__name__}, which takes '
            f'no smaller images, got {crop}'
        )
    if any(step > side for step, side in zip(stride, crop, strict=True)):
        raise ConfigError(
            f'model.test_cfg.stride must be at most model.test_cfg.crop_size, {crop}, or windows '
            f'leave gaps between them, got {stride}'
        )


def _check_schedule(cfg: Config) -> Iterator[str]:
    """Check that what counts epochs and what counts iterations fit each other."""
    train_cfg = cfg.get('train_cfg') or {}
    kind = type_name(train_cfg)
    if train_cfg.get('val_interval') == 0 and cfg.get('val_cfg') is not None:
        raise ConfigError(
            'train_cfg.val_interval must be at least 1, got 0; without validation, set val_cfg, '
            'val_dataloader and val_evaluator to None'
        )
    sampler = (cfg.get('train_dataloader') or {}).get('sampler') or {}
    if kind in EPOCH_LOOPS and type_name(sampler) in ENDLESS:
        raise ConfigError(
            f'train_dataloader.sampler must end, as DefaultSampler does, with train_cfg={kind}, '
            f'got {type_name(sampler)}, with which the first epoch has no end'
        )
    if kind != 'IterBasedTrainLoop':
        return
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint and checkpoint.get('by_epoch', True):
        yield (
            'default_hooks.checkpoint.by_epoch should be False: training counts iterations, so '
            'that the only checkpoint is written at its end.'
        )
    for name, scheduler in find_schedulers(cfg):
        kind = type_name(scheduler)
        steps = not scheduler.get('by_epoch', True) or scheduler.get('convert_to_iter_based')
        if not steps and not kind.startswith('ReduceOnPlateau'):
            yield (
                f'{name}.by_epoch should be False: training counts iterations, so that '
                f'{kind} stays at its first value.'
            )

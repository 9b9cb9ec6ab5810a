"""Describe a model for those who run its exported file without its config."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ..datasets import find_datasets, type_name
from ..errors import InputError
from ..version import __version__
from .class_names import name_classes
from .exportable import find_task
from .exported_models import mean_and_std


def describe_backbone(config: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported backbone."""
    return dict(version=__version__, config=Path(config).name, part='backbone')


def describe(
    cfg: Config, config: str | Path, model: Any, checkpoint_meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata of an exported model, as plain data.

    Args:
        cfg: The config.
        config: Its file.
        model: The toolbox's model.
        checkpoint_meta: ``meta`` of the checkpoint.

    Returns:
        ``version`` of this package, name of the ``config``, ``task``, ``part``, ``classes``,
        ``palette`` (RGB), ``channel_order`` of the input, ``pad_value`` (in the order of the
        channels, 0..255), ``transforms`` (see :func:`find_transforms`) and, of a detector with
        masks, ``mask_threshold``.
    """
    preprocessor = model.data_preprocessor
    mean, std = (x.flatten() for x in mean_and_std(preprocessor))
    # mmseg's preprocessor says pad_val; all pad what is normalized. mmpretrain's says to_rgb. All
    # toolboxes read images in the order BGR.
    pad_value = getattr(preprocessor, 'pad_val', preprocessor.pad_value)
    swaps = getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'to_rgb', False))
    rcnn = (cfg.model.get('test_cfg') or {}).get('rcnn') or {}
    return dict(
        version=__version__,
        config=Path(config).name,
        task=find_task(cfg.get('default_scope')),
        part='model',
        **name_classes(cfg, checkpoint_meta),
        channel_order='RGB' if swaps else 'BGR',
        pad_value=(mean + pad_value * std).tolist(),
        transforms=[*find_transforms(cfg)],
        mask_threshold=rcnn.get('mask_thr_binary') if getattr(model, 'with_mask', False) else None,
    )


def find_transforms(
    cfg: Config, instead: str = 'export the backbone, with --part backbone'
) -> Iterator[dict[str, Any]]:
    """Find the transforms of a config's test pipeline that resize or crop images.

    Args:
        cfg: The config.
        instead: What to do instead, for the error.

    Yields:
        ``Resize`` with ``scale`` (width, height) and ``keep_ratio``, or ``ResizeEdge`` with
        ``scale`` and ``edge``, both with ``interpolation`` and ``backend``, or ``CenterCrop`` with
        ``crop_size`` (height, width).

    Raises:
        InputError: If a transform changes the pixels in another way.
    """
    datasets = [dataset for _, dataset in find_datasets(cfg.get('test_dataloader'), 'test')]
    pipeline = datasets[0].get('pipeline') if datasets else cfg.get('test_pipeline')
    for transform in pipeline or []:
        kind = type_name(transform)
        given = transform if isinstance(transform, dict) else {}
        kernel = dict(
            interpolation=given.get('interpolation', 'bilinear'),
            backend=given.get('backend', 'cv2'),
        )
        if kind == 'Resize' and given.get('scale'):
            keep_ratio = given.get('keep_ratio', False)
            yield dict(type=kind, scale=_pair(transform.scale), keep_ratio=keep_ratio, **kernel)
        elif kind == 'ResizeEdge' and given.get('edge', 'short') == 'short':
            yield dict(type=kind, scale=transform.scale, edge='short', **kernel)
        elif kind == 'CenterCrop':
            yield dict(type=kind, crop_size=_pair(transform.crop_size)[::-1])
        elif not kind.startswith(('Load', 'Pack')):
            raise InputError(
                'test_dataloader.dataset.pipeline must resize by Resize to a scale, by ResizeEdge '
                f'of the short edge or by CenterCrop to be exported, got {transform}: {instead}'
            )


def default_size(cfg: Config) -> tuple[int, int]:
    """Return the height and width of the images that a config tests, for a file of fixed size.

    Detectors resize to a scale, and pad to multiples of 32. Segmenters' images have many sizes:
    this is the size of the crops in training.
    """
    preprocessor: ConfigDict = cfg.model.get('data_preprocessor') or {}
    if cfg.get('default_scope') == 'mmseg':
        return tuple(preprocessor.get('size') or (512, 512))
    height, width = 224, 224
    divisor = 1 if cfg.get('default_scope') == 'mmpretrain' else 32
    for transform in find_transforms(cfg, 'give the size of the images, with --size'):
        if transform['type'] == 'CenterCrop':
            height, width = transform['crop_size']
        elif transform['type'] == 'Resize':
            scale = transform['scale']  # (width, height), or of either orientation
            sides = sorted(scale) if transform['keep_ratio'] else scale[::-1]
            height, width = (-(-n // divisor) * divisor for n in sides)
    return height, width


def warn_of_size(metadata: Mapping[str, Any]) -> None:
    """Warn of a fixed ``size`` that does not suit the images that ``transforms`` make.

    Smaller images are padded, except a classifier's. Of a backbone, no transforms are known.
    """
    size, message = metadata['size'], ''
    last = (metadata.get('transforms') or [{}])[-1]
    if last.get('keep_ratio'):
        longest = max(last['scale'])
        if metadata['task'] != 'classification' and max(size) > -(-longest // 32) * 32:
            message = f'with sides of at most {longest}: all that is gained is padding'
    elif 'keep_ratio' in last or 'crop_size' in last:
        made = last.get('crop_size') or last['scale'][::-1]
        pairs = [*zip(size, made, strict=True)]
        padded = metadata['task'] != 'classification'
        if any(side < n or (side > n and not padded) for side, n in pairs):
            message = 'of {}x{}: run_model.py and tools/test.py will refuse them'.format(*made)
        elif any(side > -(-n // 32) * 32 for side, n in pairs):
            message = 'of {}x{}: all that is gained is padding'.format(*made)
    if message:
        print_log(
            f"size is {size[0]}x{size[1]}, but the config's test pipeline makes images {message}.",
            logger='current',
            level=logging.WARNING,
        )


def _pair(size: int | Sequence[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)

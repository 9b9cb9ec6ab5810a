"""Run the first sample of each data set through its pipeline, before the first step of a run."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from ..backbones.base import PyramidBackbone
from ..datasets.findings import list_some
from ..datasets.images import unreadable_reason
from ..datasets.samples import LOCAL_BACKENDS, PACKAGES
from ..errors import InputError
from .batches import same_random_numbers
from .config import ConfigError

# The methods that a user's own data set may override to read its samples.
READERS = ('get_data_info', 'prepare_data')
PACKS = {'mmdet': 'PackDetInputs', 'mmseg': 'PackSegInputs', 'mmpretrain': 'PackInputs'}


def check_first_samples(runner: Runner, split: str) -> None:
    """Raise a ConfigError if a pipeline fails, or leaves out what the toolboxes' parts need.

    Copies of the transforms run, and the random number generators are restored afterwards, so that
    training draws the same numbers as without this check. What data sets, transforms, models and
    metrics of the user's own need is not known, so they are not checked.

    Args:
        runner: The runner before its run, whose loop this builds.
        split: ``train``, ``val`` or ``test``.
    """
    loop = getattr(runner, f'{split}_loop')
    loader: Any = getattr(loop, 'dataloader', None)
    model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
    collate = getattr(loader, 'collate_fn', None)
    parts = (getattr(collate, 'func', collate), type(getattr(model, 'data_preprocessor', None)))
    for setting, dataset, is_whole in _find_datasets(
        getattr(loader, 'dataset', None), f'{split}_dataloader.dataset'
    ):
        with same_random_numbers(devices=[]):
            sample = _make_sample(setting, dataset)
        if not is_whole or not isinstance(sample, dict) or not all(map(_is_known, parts)):
            continue
        if 'inputs' not in sample:
            pack = PACKS.get(runner.cfg.get('default_scope'), 'a transform that packs them')
            raise ConfigError(
                f'{setting}.pipeline must end with {pack}, which gives the inputs of the model, '
                f'but it gives {list_some(sorted(map(str, sample)))}'
            )
        known = sample.get('data_samples')
        # Pipelines with several views, branches or augmentations return lists or dicts.
        if not isinstance(sample['inputs'], torch.Tensor) or not isinstance(known, BaseDataElement):
            continue
        metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', [])
        fault = next(_find_faults(known, split, model, metrics), None)
        if fault:
            raise ConfigError(f'{setting}.pipeline must {fault}')
        if split != 'train':
            _check_least_size(setting, sample['inputs'], loader, model)


def _is_known(part: Any) -> bool:
    """Return whether a class or function belongs to OpenMMLab or to this package."""
    return getattr(part, '__module__', '').partition('.')[0] in PACKAGES


def _find_datasets(dataset: Any, setting: str) -> Iterator[tuple[str, Any, bool]]:
    """Find the data sets inside those that join or repeat data sets.

    Yields:
        The dotted name, the data set, and whether its samples leave the outer ones as they are.
    """
    if isinstance(dataset, BaseDataset):
        yield setting, dataset, True
        return
    inner = getattr(dataset, 'datasets', None)
    parts = {f'datasets.{i}': part for i, part in enumerate(inner)} if inner else {}
    if hasattr(dataset, 'dataset'):
        parts['dataset'] = dataset.dataset
    leaves = _is_known(type(dataset)) and not hasattr(dataset, 'pipeline')
    for name, part in parts.items():
        for each, found, is_whole in _find_datasets(part, f'{setting}.{name}'):
            yield each, found, is_whole and leaves


def _make_sample(setting: str, dataset: BaseDataset) -> Any:
    """Return the first sample of a data set, or None if this process must not or cannot make it.

    It must not where a data set or transform keeps an open file or a connection to a store: the
    workers of the data loader, which are forked later, would share it.

    Raises:
        ConfigError: If one of the toolboxes' transforms fails, though its files can be read.
    """
    # A data set with readers of its own may open files, which forked workers would share.
    if any(getattr(type(dataset), name) is not getattr(BaseDataset, name) for name in READERS):
        return None
    if not isinstance(dataset.pipeline, Compose):
        return None
    transforms = dataset.pipeline.transforms
    if any(_reads_store(transform) for transform in transforms):
        return None  # a connection to a store, which forked workers would share
    try:
        transforms = deepcopy(transforms)
        results: Any = dataset.get_data_info(0)
        path = results.get('img_path')
    except Exception:  # a data set or transform of the user's own, or an empty data set
        return None
    files = [results.get(key) for key in ('img_path', 'seg_map_path')]
    files = [file for file in files if isinstance(file, str)]
    for transform in transforms:
        try:
            results = transform(results)
        except (InputError, OSError, MemoryError):  # a file's, which the run names if it needs it
            return None
        except Exception as error:
            if not _is_known(type(transform)) or any(map(unreadable_reason, files)):
                return None
            text = ' '.join(str(error).split())
            raise ConfigError(
                f'{setting}.pipeline cannot make a sample of {path or "the first image"}: '
                f'{type(transform).__name__} raises {type(error).__name__}: {text}'
            ) from error
        if results is None:
            return None
    return results


def _reads_store(transform: Any) -> bool:
    names = ('backend_args', 'file_client_args')
    chosen: dict = next(filter(None, (getattr(transform, name, None) for name in names)), {})
    return chosen.get('backend', 'local') not in LOCAL_BACKENDS


def _find_faults(
    known: BaseDataElement, split: str, model: Any, metrics: list[Any]
) -> Iterator[str]:
    """Say what a pipeline must give in addition to what is known of its first sample."""
    scope = type(model).__module__.partition('.')[0]
    if scope == 'mmdet' and split == 'train':
        yield from _find_missing_objects(known, model)
    elif scope == 'mmdet':
        yield from _find_missing_meta(known, model, metrics)
    elif scope == 'mmseg':
        yield from _find_missing_labels(known, split, model, metrics)


def _find_missing_objects(known: BaseDataElement, model: Any) -> Iterator[str]:
    objects = known.get('gt_instances')
    if objects is None or not _find_box_heads(model):
        return
    for key in ('bboxes', 'labels'):
        if key not in objects:
            yield f'give the {key} of objects, as LoadAnnotations(with_bbox=True) does'
    masks = getattr(getattr(model, 'roi_head', None), 'with_mask', False)
    if masks and _is_known(type(model.roi_head)) and 'masks' not in objects:
        yield (
            'give the masks of objects, as LoadAnnotations(with_mask=True) does, since the model '
            'has a mask_head'
        )


def _find_box_heads(model: Any) -> list[Any]:
    """Find the heads of mmdet that predict the boxes of a detector."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    heads = [getattr(part, 'bbox_head', None) for part in (model, getattr(model, 'roi_head', None))]
    each = [m for head in heads for m in (head if isinstance(head, nn.ModuleList) else [head])]
    return [m for m in each if isinstance(m, (BaseDenseHead, BBoxHead)) and _is_known(type(m))]


def _scales_boxes(head: Any) -> bool:
    """Tell whether a head is known to need the scale of an image: CornerHead and its kin do not."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    predict = type(head)._predict_by_feat_single
    return predict in (BaseDenseHead._predict_by_feat_single, BBoxHead._predict_by_feat_single)


def _find_missing_meta(known: BaseDataElement, model: Any, metrics: list[Any]) -> Iterator[str]:
    from mmdet.evaluation import CocoMetric

    needed = []
    if any(getattr(type(metric), 'process', None) is CocoMetric.process for metric in metrics):
        needed += [('img_id', 'CocoMetric'), ('ori_shape', 'CocoMetric')]
    if any(map(_scales_boxes, _find_box_heads(model))):
        needed += [('scale_factor', 'the model')]
    for key, user in needed:
        if key not in known:
            hint = ', which a Resize sets,' if key == 'scale_factor' else ''
            yield f'give {key}{hint} by meta_keys of PackDetInputs, since {user} needs it'


def _find_missing_labels(
    known: BaseDataElement, split: str, model: Any, metrics: list[Any]
) -> Iterator[str]:
    from mmseg.evaluation import IoUMetric
    from mmseg.models import BaseSegmentor, EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    labels = known.get('gt_sem_seg')
    if split == 'train':
        head = type(getattr(model, 'decode_head', None))
        if labels is None and getattr(head, 'loss_by_feat', 0) is BaseDecodeHead.loss_by_feat:
            yield 'give label images, as LoadAnnotations does, since the model learns from them'
        return
    if type(model).predict is EncoderDecoder.predict and 'ori_shape' not in known:
        yield 'give ori_shape by meta_keys of PackSegInputs, since the model needs it'
    scores = [m for m in metrics if getattr(type(m), 'process', None) is IoUMetric.process]
    if all(metric.format_only for metric in scores):
        return
    if labels is None:
        yield 'give label images, as LoadAnnotations does, since IoUMetric compares with them'
    elif type(model).postprocess_result is BaseSegmentor.postprocess_result:
        own, original = tuple(labels.shape), tuple(known.get('ori_shape', ()))[:2]
        if original and own != original:
            yield (
                f'leave label images as they are (LoadAnnotations after Resize, and no crop), '
                f'since IoUMetric compares in the size of the image, {original[1]}x{original[0]}, '
                f'but they have {own[1]}x{own[0]} pixels'
            )


def _check_least_size(setting: str, image: torch.Tensor, loader: Any, model: Any) -> None:
    """Raise a ConfigError if all images of the first batch are too small for the backbone."""
    # Processes have other batches, and one that ends would leave the others waiting.
    if not isinstance(getattr(model, 'backbone', None), PyramidBackbone) or get_world_size() > 1:
        return
    if min(image.shape[-2:]) >= 32:
        return
    try:
        with same_random_numbers(), torch.no_grad():
            batch = [deepcopy(loader.dataset)[i] for i in next(iter(loader.batch_sampler))]
            inputs = model.data_preprocessor(loader.collate_fn(batch), training=False)['inputs']
    except Exception:  # such as of images of several sizes, which have a check of their own
        return
    height, width = inputs.shape[-2:]
    if min(height, width) < 32:
        raise ConfigError(
            f'{setting}.pipeline must give images of at least 32x32 pixels, which the backbone '
            f'needs, but those of the first batch become {width}x{height}'
        )

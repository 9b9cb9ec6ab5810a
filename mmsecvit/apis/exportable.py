"""Tell which models can be exported whole."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict
from torch import nn

from ..errors import InputError

_TASKS = {'mmpretrain': 'classification', 'mmseg': 'segmentation', 'mmdet': 'detection'}

# Classes of the parts of a detector, of which the exported file computes exactly what mmdet does.
_BOX_CODERS = ('DeltaXYWHBBoxCoder',)
_ANCHORS = ('AnchorGenerator',)
_DETECTORS = {
    '': ('RetinaNet', 'FasterRCNN', 'MaskRCNN', 'CascadeRCNN'),
    'bbox_head': ('RetinaHead',),
    'bbox_head.bbox_coder': _BOX_CODERS,
    'bbox_head.prior_generator': _ANCHORS,
    'rpn_head': ('RPNHead',),
    'rpn_head.bbox_coder': _BOX_CODERS,
    'rpn_head.prior_generator': _ANCHORS,
    'roi_head': ('StandardRoIHead', 'CascadeRoIHead'),
    'roi_head.shared_head': (),
    'roi_head.bbox_head': (
        'BBoxHead',
        'ConvFCBBoxHead',
        'Shared2FCBBoxHead',
        'Shared4Conv1FCBBoxHead',
    ),
    'roi_head.bbox_head.bbox_coder': _BOX_CODERS,
    'roi_head.bbox_head.loss_cls': ('CrossEntropyLoss',),  # others have other activations
    'roi_head.bbox_roi_extractor': ('SingleRoIExtractor',),
    'roi_head.bbox_roi_extractor.roi_layers': ('RoIAlign',),
    'roi_head.mask_head': ('FCNMaskHead',),
    'roi_head.mask_roi_extractor': ('SingleRoIExtractor',),
    'roi_head.mask_roi_extractor.roi_layers': ('RoIAlign',),
}


def find_task(scope: str | None) -> str:
    """Return the task of a toolbox's models.

    Raises:
        InputError: If it is no known toolbox.
    """
    if scope not in _TASKS:
        raise InputError(
            f'only models of {", ".join(_TASKS)} can be exported whole, got default_scope {scope}: '
            'export the backbone, with --part backbone'
        )
    return _TASKS[scope]


def check_exportable(model: Any, scope: str | None) -> None:
    """Raise an InputError that names the part of a model that cannot be exported, if there is one.

    Args:
        model: Classifier, segmenter or detector.
        scope: Its toolbox.
    """
    find_unsupported = {
        'classification': _unsupported_in_classifier,
        'segmentation': _unsupported_in_segmenter,
        'detection': _unsupported_in_detector,
    }[find_task(scope)]
    for reason in find_unsupported(model):
        raise InputError(f'{reason}: export the backbone, with --part backbone')


def _unsupported_in_classifier(model: Any) -> Iterator[str]:
    from mmpretrain.models import ClsHead

    yield from _other_class('model', model, ('ImageClassifier',))
    head = type(model.head)
    if not issubclass(head, ClsHead) or _overrides(head, ClsHead, 'predict', '_get_predictions'):
        yield f'model.head must give each image one class to be exported, got a {head.__name__}'


def _unsupported_in_segmenter(model: Any) -> Iterator[str]:
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    yield from _other_class('model', model, ('EncoderDecoder',))
    head = type(model.decode_head)
    if _overrides(head, BaseDecodeHead, 'predict', 'predict_by_feat'):
        yield (
            'model.decode_head must give each pixel one class by a map of logits to be exported, '
            f'got a {head.__name__}'
        )
    mode = model.test_cfg.get('mode', 'whole')
    if mode != 'whole':
        yield f"model.test_cfg.mode must be 'whole' to be exported, got {mode!r}"


def _unsupported_in_detector(model: Any) -> Iterator[str]:
    for path, classes in _DETECTORS.items():
        for part in _find_parts(model, path):
            yield from _other_class(f'model.{path}'.rstrip('.'), part, classes)
            if getattr(part, 'pool_mode', 'avg') != 'avg':
                yield f"model.{path}.pool_mode must be 'avg' to be exported, got {part.pool_mode!r}"
    if hasattr(model, 'bbox_head'):
        yield from _unsupported_nms('model.test_cfg', model.test_cfg)
    else:
        for stage in ('rpn', 'rcnn'):
            yield from _unsupported_nms(f'model.test_cfg.{stage}', model.test_cfg[stage])


def _find_parts(model: Any, path: str) -> list[Any]:
    """Return the parts of a model at a dotted path, of all stages, levels or none."""
    parts = [model]
    for name in filter(None, path.split('.')):
        found = [getattr(part, name, None) for part in parts]
        stages = [part if isinstance(part, nn.ModuleList) else [part] for part in found]
        parts = [part for stage in stages for part in stage if part is not None]
    return parts


def _unsupported_nms(setting: str, cfg: ConfigDict) -> Iterator[str]:
    """Find settings of mmcv's NMS that torchvision's does not have."""
    nms = dict(cfg.get('nms') or {})
    if nms.pop('type', 'nms') != 'nms':
        yield f"{setting}.nms.type must be 'nms' to be exported, got {cfg.nms.type!r}"
    # Boxes in more than split_thr are suppressed in parts, with the same result.
    if nms.keys() - {'class_agnostic', 'split_thr'} != {'iou_threshold'}:
        yield (
            f'{setting}.nms must have a type, an iou_threshold and no other threshold to be '
            f'exported, got {cfg.get("nms")}'
        )


def _other_class(setting: str, part: object, supported: tuple[str, ...]) -> Iterator[str]:
    name = type(part).__name__
    if name not in supported:
        takes = f'one of {", ".join(supported)}' if supported else 'None'
        yield f'{setting} must be {takes} to be exported, got a {name}'


def _overrides(cls: type, base: type, *names: str) -> bool:
    return any(getattr(cls, name) is not getattr(base, name) for name in names)

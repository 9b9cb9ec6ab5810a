"""Check options of metrics that would end a run at its first validation."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS

from ..datasets import type_name
from ..datasets.nodes import find_nodes
from ..datasets.samples import is_of_toolboxes
from .config import ConfigError

COCO_KINDS = ('bbox', 'segm', 'proposal', 'proposal_fast')
# The names of COCO's numbers in mmdet, for boxes, masks and proposals.
COCO_BOXES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
COCO_PROPOSALS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
IOU_KINDS = ('mIoU', 'mDice', 'mFscore')


def check_metric_options(cfg: Config, splits: Iterable[str]) -> list[str]:
    """Check options of mmdet's ``CocoMetric`` and of mmseg's ``IoUMetric``.

    Returns:
        Sentences for the log on what is suspicious.

    Raises:
        ConfigError: If an option would end the run at its first validation.
    """
    messages: list[str] = []
    for split in splits:
        name = f'{split}_evaluator'
        for setting, metric in find_nodes(cfg.get(name), name, lambda x: type_name(x) in _CHECKS):
            if is_of_toolboxes(metric, METRICS, cfg.get('default_scope')):
                messages += _CHECKS[type_name(metric)](setting, metric)
    return messages


def _check_coco(setting: str, metric: ConfigDict) -> Iterator[str]:
    kinds = metric.get('metric', 'bbox')
    _check_names(f'{setting}.metric', kinds, COCO_KINDS, list)
    if metric.get('format_only'):
        _check_output(setting, metric, 'outfile_prefix')
        return
    thresholds = metric.get('iou_thrs')
    if isinstance(thresholds, (int, float)):
        thresholds = [thresholds]
    if isinstance(thresholds, (list, tuple, str)) and not _are_thresholds(thresholds):
        raise ConfigError(
            f'{setting}.iou_thrs must be numbers above 0 and up to 1, got {metric.iou_thrs!r}'
        )
    kinds = set(kinds if isinstance(kinds, list) else [kinds]) - {'proposal_fast'}
    if not kinds:
        return
    items = metric.get('metric_items')
    if items is not None:
        known = (*COCO_BOXES, *COCO_PROPOSALS)
        if isinstance(items, str):
            raise ConfigError(f'{setting}.metric_items must be a list of names, got {items!r}')
        _check_names(f'{setting}.metric_items', items, known, (list, tuple))
    numbers = metric.get('proposal_nums', (100, 300, 1000))
    if metric.get('use_mp_eval'):  # mmdet's own COCOeval takes any
        numbers = (100, 300, 1000)
    if not isinstance(numbers, (list, tuple)) or len(numbers) < 3:
        raise ConfigError(f'{setting}.proposal_nums must be three numbers, got {numbers}')
    if kinds == {'proposal'}:
        return
    if metric.get('classwise') and thresholds is not None and len(thresholds) < 6:
        raise ConfigError(
            f'{setting}.iou_thrs must be at least 6 numbers with classwise=True, of which mmdet '
            f'shows the first and the sixth, got {metric.iou_thrs}'
        )
    if 100 not in numbers:
        yield (
            f'{setting}.proposal_nums should have 100, for which COCO defines mAP, got '
            f'{list(numbers)}: mAP will be -1.'
        )


def _are_thresholds(values: Any) -> bool:
    return len(values) > 0 and all(
        isinstance(value, (int, float)) and 0 < value <= 1 for value in values
    )


def _check_iou(setting: str, metric: ConfigDict) -> Iterator[str]:
    if metric.get('format_only'):
        _check_output(setting, metric, 'output_dir')
    else:
        kinds = metric.get('iou_metrics', ['mIoU'])
        _check_names(f'{setting}.iou_metrics', kinds, IOU_KINDS, (list, tuple))
    yield from ()


def _check_names(setting: str, given: Any, names: tuple[str, ...], lists: Any) -> None:
    """Raise a ConfigError if an option is neither one of the names nor a list of them."""
    if any(name not in names for name in (given if isinstance(given, lists) else [given])):
        raise ConfigError(
            f'{setting} must be one of {", ".join(map(repr, names))}, or a list of them, '
            f'got {given!r}'
        )


def _check_output(setting: str, metric: ConfigDict, option: str) -> None:
    if metric.get(option) is None:
        raise ConfigError(
            f'{setting}.{option} must be a path with format_only=True, which only writes files, '
            'got None'
        )


_CHECKS: dict[str, Callable[[str, ConfigDict], Iterator[str]]] = dict(
    CocoMetric=_check_coco,
    CheckedCocoMetric=_check_coco,
    IoUMetric=_check_iou,
)

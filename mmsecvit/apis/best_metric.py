"""Check that the metrics of an evaluator have the names by which hooks choose or stop."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.registry import METRICS

from ..datasets import type_name
from ..datasets.findings import list_some
from ..datasets.nodes import find_class, find_nodes
from ..datasets.samples import is_of_toolboxes
from .config import ConfigError
from .metric_options import COCO_BOXES, COCO_PROPOSALS


def check_monitored_metrics(cfg: Config) -> list[str]:
    """Check that the evaluator returns each metric that ``save_best`` or ``monitor`` names.

    ``save_best`` chooses the best checkpoint; ``monitor`` ends training early or lowers the
    learning rate. mmengine looks these metrics up only at the end of the first validation. Nothing
    is checked where the names of a metric's results are unknown.

    Returns:
        Sentences for the log, one for each setting that has no effect.

    Raises:
        ConfigError: If training would stop because the evaluator does not return a named metric,
            or because mmengine does not know whether higher or lower values are better.
    """
    messages: list[str] = []
    if None in (cfg.get('train_cfg'), cfg.get('val_cfg'), cfg.get('val_evaluator')):
        return messages
    given = list_metrics(cfg.val_evaluator, cfg.get('default_scope'))
    for setting, name, fatal in _monitored(cfg):
        if name != 'auto' and not given.may_have(name):
            message = f'{setting} must be a metric of val_evaluator, {given}, got {name!r}'
            if fatal:
                raise ConfigError(message)
            messages.append(f'{message}: it has no effect.')
    for setting, hook in _checkpoint_hooks(cfg):
        for name in _as_list(hook.get('save_best') or ()):
            first = given.first(name)
            if not hook.get('rule') and not _has_rule(hook, first):
                raise ConfigError(
                    f"{setting}.rule must be 'greater' or 'less', since mmengine does not know "
                    f'which value of {first!r} is the better one'
                )
    return messages


class MetricNames:
    """The names of what the metrics of an evaluator give.

    Args:
        exact: Names in the evaluator's order.
        prefixes: Beginnings of the names of further metrics, of which no more is known.
        complete: Whether there are no other metrics.
    """

    def __init__(self, exact: list[str], prefixes: list[str], complete: bool) -> None:
        self.exact, self.prefixes, self.complete = exact, prefixes, complete

    def may_have(self, name: str) -> bool:
        """Return False only if it is certain that no metric has this name."""
        return not self.complete or name in self.exact or name.startswith(tuple(self.prefixes))

    def first(self, name: str) -> str | None:
        """Return ``name``, or for ``auto`` the first one; None if it is unknown."""
        if name != 'auto':
            return name
        known = self.complete and not self.prefixes and self.exact
        return self.exact[0] if known else None

    def __str__(self) -> str:
        names = [*self.exact, *(f'{prefix}...' for prefix in self.prefixes)]
        return f'one of {list_some(names)}' if names else 'which gives none'


def list_metrics(evaluator: object, scope: str | None) -> MetricNames:
    """Return the names of the metrics that an evaluator gives."""
    exact: list[str] = []
    prefixes: list[str] = []
    complete = True
    metrics = evaluator.get('metrics', evaluator) if isinstance(evaluator, dict) else evaluator
    for metric in _as_list(metrics):
        cls: Any = find_class(metric, METRICS, scope) if isinstance(metric, dict) else None
        if getattr(cls, 'evaluate', None) is not BaseMetric.evaluate:
            complete = False
            continue
        prefix = metric.get('prefix') or cls.default_prefix
        is_known = is_of_toolboxes(metric, METRICS, scope) and not metric.get('classwise')
        count = _METRICS.get(cls.__name__) if is_known else None
        names = count(metric) if count else None
        if metric.get('format_only'):
            names = []
        if names is not None:
            exact += [f'{prefix}/{name}' if prefix else name for name in names]
        elif prefix:
            prefixes.append(f'{prefix}/')
        else:
            complete = False
    return MetricNames(exact, prefixes, complete)


def _coco(metric: ConfigDict) -> list[str]:
    names: list[str] = []
    for kind in _as_list(metric.get('metric', 'bbox')):
        if kind == 'proposal_fast':
            names += [f'AR@{n}' for n in metric.get('proposal_nums', (100, 300, 1000))]
        elif kind == 'proposal':
            names += metric.get('metric_items') or COCO_PROPOSALS
        else:
            names += [f'{kind}_{item}' for item in metric.get('metric_items') or COCO_BOXES]
    return names


def _voc(metric: ConfigDict) -> list[str] | None:
    if metric.get('metric', 'mAP') != 'mAP':
        return None
    thresholds = _as_list(metric.get('iou_thrs', 0.5))
    return ['mAP', *(f'AP{int(threshold * 100):02d}' for threshold in thresholds)]


def _iou(metric: ConfigDict) -> list[str]:
    of: dict[str, tuple[str, ...]] = dict(
        mIoU=('mIoU', 'mAcc'),
        mDice=('mDice', 'mAcc'),
        mFscore=('mFscore', 'mPrecision', 'mRecall'),
    )
    kinds = _as_list(metric.get('iou_metrics', ['mIoU']))
    return ['aAcc', *dict.fromkeys(name for kind in kinds for name in of.get(kind, ()))]


def _accuracy(metric: ConfigDict) -> list[str]:
    suffixes = _thresholds(metric.get('thrs', 0.0))
    return [f'top{k}{suffix}' for k, suffix in product(_as_list(metric.get('topk', 1)), suffixes)]


def _single_label(metric: ConfigDict) -> list[str]:
    average = metric.get('average', 'macro')
    end = {None: '_classwise', 'micro': '_micro'}.get(average, '')
    return [
        f'{item}{suffix}{end}'
        for suffix, item in product(_thresholds(metric.get('thrs', 0.0)), _items(metric))
    ]


def _multi_label(metric: ConfigDict) -> list[str]:
    threshold, topk = metric.get('thr'), metric.get('topk')
    if threshold is None and topk is None:
        threshold = 0.5
    suffix = f'_thr-{threshold:.2f}' if threshold else f'_top{topk}'
    average = metric.get('average', 'macro')
    end = {None: '_classwise', 'macro': ''}.get(average, f'_{average}')
    return [f'{item}{"" if threshold == 0.5 else suffix}{end}' for item in _items(metric)]


def _average_precision(metric: ConfigDict) -> list[str]:
    return ['mAP' if metric.get('average', 'macro') else 'AP_classwise']


_METRICS: dict[str, Callable[[ConfigDict], list[str] | None]] = dict(
    CocoMetric=_coco,
    CheckedCocoMetric=_coco,
    VOCMetric=_voc,
    IoUMetric=_iou,
    Accuracy=_accuracy,
    SingleLabelMetric=_single_label,
    MultiLabelMetric=_multi_label,
    VOCMultiLabelMetric=_multi_label,
    AveragePrecision=_average_precision,
    VOCAveragePrecision=_average_precision,
)


def _thresholds(given: object) -> list[str]:
    values = _as_list(given)
    if len(values) == 1:
        return ['']
    return ['_no-thr' if value is None else f'_thr-{value:.2f}' for value in values]


def _items(metric: ConfigDict) -> list[str]:
    given = metric.get('items') if 'items' in metric else ('precision', 'recall', 'f1-score')
    return [item for item in ('precision', 'recall', 'f1-score', 'support') if item in given]


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _checkpoint_hooks(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the checkpoint hooks of a config with their settings."""
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if checkpoint:
        yield 'default_hooks.checkpoint', checkpoint
    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if type_name(hook) in ('CheckpointHook', 'AtomicCheckpointHook'):
            yield f'custom_hooks.{i}', hook


def _monitored(cfg: Config) -> Iterator[tuple[str, str, bool]]:
    """Yield each setting that names a metric, the metric, and whether training ends without it."""
    for setting, hook in _checkpoint_hooks(cfg):
        for name in _as_list(hook.get('save_best') or ()):
            yield f'{setting}.save_best', name, True
    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if type_name(hook) == 'EarlyStoppingHook' and hook.get('monitor'):
            yield f'custom_hooks.{i}.monitor', hook.monitor, bool(hook.get('strict'))
    for setting, scheduler in find_schedulers(cfg):
        if type_name(scheduler).startswith('ReduceOnPlateau'):
            yield f'{setting}.monitor', scheduler.get('monitor', 'loss'), True


def find_schedulers(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the setting and the config of each schedule, also of several optimizers."""
    schedulers = cfg.get('param_scheduler')
    yield from find_nodes(schedulers, 'param_scheduler', lambda node: bool(type_name(node)))


def _has_rule(hook: ConfigDict, name: str | None) -> bool:
    """Return whether mmengine knows if more or less of a metric is better."""
    greater = hook.get('greater_keys') or CheckpointHook._default_greater_keys
    less = hook.get('less_keys') or CheckpointHook._default_less_keys
    known = [key.lower() for key in [*_as_list(greater), *_as_list(less)]]
    return name is None or any(key in name.lower() for key in known)

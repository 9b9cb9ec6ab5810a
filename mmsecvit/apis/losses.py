"""Check that losses have as many classes as their heads."""

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from ..datasets import type_name
from ..datasets.nodes import find_class
from .class_counts import HEADS, SOFTMAX_HEADS, count_outputs, find_heads
from .config import ConfigError


def check_losses(cfg: Config) -> None:
    """Raise a ConfigError if a loss would end the first step because of its number of classes.

    Heads and losses that are not the toolboxes' own, or that compute losses in their own way, are
    not checked.
    """
    scope = cfg.get('default_scope')
    if scope not in HEADS:
        return
    for setting, head in find_heads(cfg.get('model') or {}, 'model', HEADS[scope]):
        for name, outputs in _count(head, scope):
            losses = head.get(name) or ()
            for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
                _check_weights(f'{setting}.{name}', loss, outputs)
        if scope == 'mmpretrain':
            _check_accuracy(setting, head)


def _count(head: ConfigDict, scope: str) -> Iterator[tuple[str, int]]:
    """Yield the option of a head's loss, and how many classes it gets, if that is known."""
    cls = find_class(head, MODELS, scope)
    if scope == 'mmdet':
        from mmdet.models.roi_heads.bbox_heads import BBoxHead

        if getattr(cls, 'loss', None) is BBoxHead.loss:
            background = not (head.get('loss_cls') or {}).get('use_sigmoid')
            yield 'loss_cls', head.num_classes + background
    elif scope == 'mmseg':
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        if getattr(cls, 'loss_by_feat', None) is BaseDecodeHead.loss_by_feat:
            yield 'loss_decode', count_outputs(head)
    elif type_name(head) in SOFTMAX_HEADS:
        yield 'loss', head.num_classes


def _check_weights(setting: str, loss: ConfigDict, outputs: int) -> None:
    kind = type_name(loss)
    weights = loss.get('class_weight')
    # With a sigmoid, or soft labels, weights are broadcast.
    broadcasts = loss.get('use_sigmoid') or loss.get('use_soft') or kind != 'CrossEntropyLoss'
    if not broadcasts and isinstance(weights, (list, tuple)) and len(weights) != outputs:
        raise ConfigError(
            f'{setting}.class_weight must be a number for each of the {outputs} outputs of the '
            f'head, got {len(weights)}'
        )
    if kind == 'LabelSmoothLoss' and loss.get('num_classes') not in (None, outputs):
        raise ConfigError(
            f'{setting}.num_classes must be that of the head, {outputs}, got {loss.num_classes}'
        )


def _check_accuracy(setting: str, head: ConfigDict) -> None:
    topk = head.get('topk') or (1,)
    highest = max(topk) if isinstance(topk, (list, tuple)) else topk
    if head.get('cal_acc') and highest > head.num_classes:
        raise ConfigError(
            f'{setting}.topk must be at most {setting}.num_classes, {head.num_classes}, with '
            f'cal_acc=True, got {topk}'
        )

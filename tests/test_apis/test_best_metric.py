import pytest
import torch
from mmengine.config import Config
from mmengine.registry import METRICS

from mmsecvit.apis.best_metric import check_monitored_metrics, list_metrics
from mmsecvit.apis.config import ConfigError


def make_config(scope: str, evaluator: dict | list, save_best: object, **hook) -> Config:
    pytest.importorskip(scope)
    return Config(
        dict(
            default_scope=scope,
            train_cfg=dict(by_epoch=True, max_epochs=1),
            val_cfg=dict(),
            val_evaluator=evaluator,
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', save_best=save_best, **hook)),
        )
    )


COCO = dict(type='CocoMetric', metric='segm')
ACCURACY = dict(type='Accuracy', topk=2)


@pytest.mark.parametrize(
    ('scope', 'evaluator', 'wrong', 'right'),
    [
        ('mmdet', COCO, 'coco/bbox_mAP', 'coco/segm_mAP_50'),
        ('mmdet', dict(type='CheckedCocoMetric'), 'coco/segm_mAP', 'coco/bbox_mAP'),
        ('mmdet', dict(COCO, classwise=True, prefix='own'), 'coco/segm_mAP', 'own/cat_precision'),
        ('mmdet', dict(COCO, metric=['bbox', 'proposal']), 'coco/segm_mAP', 'coco/AR@100'),
        ('mmdet', dict(COCO, metric_items=['mAP']), 'coco/segm_mAP_50', 'coco/segm_mAP'),
        ('mmdet', dict(type='VOCMetric'), 'coco/bbox_mAP', 'pascal_voc/AP50'),
        ('mmdet', dict(type='LVISMetric'), 'coco/bbox_mAP', 'lvis/bbox_AP'),
        ('mmseg', dict(type='IoUMetric', iou_metrics='mDice'), 'mIoU', 'mDice'),
        ('mmseg', dict(type='IoUMetric', iou_metrics=['mFscore']), 'mIoU', 'mRecall'),
        ('mmseg', dict(type='IoUMetric', prefix='val'), 'mIoU', 'val/mIoU'),
        ('mmpretrain', ACCURACY, 'accuracy/top1', 'accuracy/top2'),
        ('mmpretrain', [ACCURACY, dict(type='SingleLabelMetric')], 'top2', 'single-label/recall'),
        ('mmpretrain', dict(type='AveragePrecision'), 'accuracy/top1', 'multi-label/mAP'),
        ('mmpretrain', dict(metrics=[ACCURACY]), 'accuracy/top1', 'accuracy/top2'),
    ],
)
def test_save_best_must_be_a_metric(scope, evaluator, wrong, right):
    assert check_monitored_metrics(make_config(scope, evaluator, right, rule='greater')) == []
    cfg = make_config(scope, evaluator, wrong)
    message = f'^default_hooks.checkpoint.save_best must be a metric of val_eval.*got {wrong!r}$'
    with pytest.raises(ConfigError, match=message):
        check_monitored_metrics(cfg)
    cfg.val_cfg = None  # nothing is validated
    assert check_monitored_metrics(cfg) == []


def test_the_message_lists_the_metrics():
    with pytest.raises(ConfigError) as error:
        check_monitored_metrics(make_config('mmpretrain', ACCURACY, ['accuracy/top1']))
    assert str(error.value) == (
        'default_hooks.checkpoint.save_best must be a metric of val_evaluator, one of '
        "'accuracy/top2', got 'accuracy/top1'"
    )


@pytest.mark.parametrize('save_best', [None, 'auto', 'mine/anything'])
def test_unknown_metrics_are_left_alone(save_best):
    class Mine:
        pass

    evaluator = [dict(type='IoUMetric'), dict(type=Mine), dict(type='NotRegistered')]
    cfg = make_config('mmseg', evaluator, save_best, rule='less')
    assert check_monitored_metrics(cfg) == []


def test_mmengine_must_know_what_is_better():
    score = dict(type='SingleLabelMetric', items=['f1-score'])
    message = "^default_hooks.checkpoint.rule must be 'greater' or 'less'.*'single-label/f1-score'"
    for save_best in ('auto', 'single-label/f1-score'):
        with pytest.raises(ConfigError, match=message):
            check_monitored_metrics(make_config('mmpretrain', score, save_best))
        assert (
            check_monitored_metrics(make_config('mmpretrain', score, save_best, rule='less')) == []
        )


def test_monitors_of_other_hooks_and_of_schedules_are_metrics():
    cfg = make_config('mmseg', dict(type='IoUMetric'), 'mIoU')
    cfg.custom_hooks = [dict(type='EarlyStoppingHook', monitor='mDice')]
    (warning,) = check_monitored_metrics(cfg)
    assert warning.startswith('custom_hooks.0.monitor must be a metric') and 'no effect' in warning
    cfg.custom_hooks[0].strict = True
    with pytest.raises(ConfigError, match=r'^custom_hooks.0.monitor must be a metric'):
        check_monitored_metrics(cfg)
    cfg.custom_hooks = []
    cfg.param_scheduler = [dict(type='ReduceOnPlateauLR')]
    with pytest.raises(ConfigError, match=r"^param_scheduler.0.monitor must be .* got 'loss'$"):
        check_monitored_metrics(cfg)


LABELS = [dict(pred_score=torch.tensor([0.6, 0.4]), gt_label=torch.tensor([0]))] * 2
VECTORS = [dict(pred_score=torch.tensor([0.6, 0.4]), gt_score=torch.tensor([1, 0]))] * 2


@pytest.mark.parametrize(
    ('metric', 'results'),
    [
        (dict(type='Accuracy', topk=(1, 2)), LABELS),
        (dict(type='Accuracy', topk=(1, 2), thrs=(None, 0.5)), LABELS),
        (dict(type='SingleLabelMetric'), LABELS),
        (dict(type='SingleLabelMetric', thrs=(0.0, 0.25), items=('recall',)), LABELS),
        (dict(type='SingleLabelMetric', average=None), LABELS),
        (dict(type='SingleLabelMetric', average='micro', items=('support', 'recall')), LABELS),
        (dict(type='MultiLabelMetric'), VECTORS),
        (dict(type='MultiLabelMetric', thr=0.25), VECTORS),
        (dict(type='MultiLabelMetric', topk=1, average='micro'), VECTORS),
        (dict(type='MultiLabelMetric', average=None, items=('f1-score',)), VECTORS),
        (dict(type='AveragePrecision'), VECTORS),
        (dict(type='AveragePrecision', average=None), VECTORS),
    ],
)
def test_names_are_those_that_the_metric_gives(metric, results):
    pytest.importorskip('mmpretrain')
    expected = []
    for only in (metric, dict(metric, prefix='own')):
        with METRICS.switch_scope_and_registry('mmpretrain') as registry:
            built = registry.build(dict(only))
        expected = [f'{built.prefix}/{name}' for name in built.compute_metrics(results)]
        assert list_metrics(Config(only)._cfg_dict, 'mmpretrain').exact == expected


@pytest.mark.parametrize('kinds', ['mIoU', ['mDice'], ['mIoU', 'mDice', 'mFscore']])
def test_names_of_segmentation_are_those_that_the_metric_gives(kinds):
    pytest.importorskip('mmseg')
    metric = dict(type='IoUMetric', iou_metrics=kinds)
    with METRICS.switch_scope_and_registry('mmseg') as registry:
        built = registry.build(dict(metric))
    built.dataset_meta = dict(classes=('a', 'b'))
    ones = torch.ones(2)
    expected = list(built.compute_metrics([(ones, ones, ones, ones)]))
    assert list_metrics(Config(metric)._cfg_dict, 'mmseg').exact == expected

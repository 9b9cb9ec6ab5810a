import pytest
from mmengine.config import Config

from mmsecvit.apis.config import ConfigError
from mmsecvit.apis.metric_options import check_metric_options


def make_config(kind: str, options: dict) -> Config:
    scope = 'mmseg' if kind == 'IoUMetric' else 'mmdet'
    pytest.importorskip(scope)
    return Config(dict(default_scope=scope, val_evaluator=[dict(type=kind, **options)]))


@pytest.mark.parametrize(
    ('kind', 'options', 'message'),
    [
        ('CocoMetric', dict(metric='mAP'), "metric must be one of 'bbox', .*, got 'mAP'"),
        ('CocoMetric', dict(metric=('bbox', 'segm')), 'metric must be .* list of them'),
        ('CheckedCocoMetric', dict(iou_thrs=[50]), r'iou_thrs must be .*, got \[50\]'),
        ('CheckedCocoMetric', dict(iou_thrs='0.5'), "iou_thrs must be .*, got '0.5'"),
        ('CheckedCocoMetric', dict(iou_thrs=0.5, classwise=True), 'iou_thrs must be at least 6'),
        ('CocoMetric', dict(proposal_nums=[10, 100]), r'proposal_nums must be .*, got \[10, 100\]'),
        ('CocoMetric', dict(metric_items=['mAP_60']), r"metric_items must be .*, got \['mAP_60'\]"),
        ('CocoMetric', dict(metric_items='mAP'), "metric_items must be a list .*, got 'mAP'"),
        ('CocoMetric', dict(format_only=True), 'outfile_prefix must be a path .*, got None'),
        ('IoUMetric', dict(iou_metrics='mIOU'), "iou_metrics must be .*, got 'mIOU'"),
        ('IoUMetric', dict(iou_metrics=['mIoU', 'IoU']), 'iou_metrics must be one of'),
        ('IoUMetric', dict(format_only=True), 'output_dir must be a path .*, got None'),
    ],
)
def test_options_that_end_the_first_validation_are_refused(kind, options, message):
    cfg = make_config(kind, options)
    with pytest.raises(ConfigError, match=rf'^val_evaluator\.0\.{message}'):
        check_metric_options(cfg, ('train', 'val'))
    assert check_metric_options(cfg, ('test',)) == []


@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        ('CocoMetric', dict(metric=['bbox', 'segm'], classwise=True)),
        ('CocoMetric', dict(metric='proposal_fast', proposal_nums=[10], metric_items=['?'])),
        ('CocoMetric', dict(metric='proposal', proposal_nums=[1, 10, 50], iou_thrs=[0.5])),
        ('CocoMetric', dict(proposal_nums=[300], use_mp_eval=True)),
        ('CocoMetric', dict(metric_items=('mAP', 'AR@100'), iou_thrs=0.5)),
        ('CocoMetric', dict(format_only=True, outfile_prefix='x', proposal_nums=[1])),
        ('IoUMetric', dict(iou_metrics=('mIoU', 'mFscore'))),
        ('IoUMetric', dict(format_only=True, output_dir='x', iou_metrics='?')),
    ],
)
def test_options_that_work_are_left_alone(kind, options):
    assert check_metric_options(make_config(kind, options), ('val',)) == []


def test_the_mean_needs_a_hundred_objects():
    cfg = make_config('CocoMetric', dict(proposal_nums=[1, 10, 50]))
    (warning,) = check_metric_options(cfg, ('val',))
    assert warning.startswith('val_evaluator.0.proposal_nums should have 100')
    assert warning.endswith('got [1, 10, 50]: mAP will be -1.')

import pytest
from mmengine.config import Config

from mmsecvit.apis.config import ConfigError
from mmsecvit.apis.losses import check_losses

THREE, TWO, ONE = [1.0, 2.0, 3.0], [1.0, 2.0], [1.0]
CROSS_ENTROPY = dict(type='CrossEntropyLoss')
BOXES = dict(type='Shared2FCBBoxHead', num_classes=2)
LINEAR = dict(type='LinearClsHead', num_classes=3)


def make_config(scope: str, head: dict, **loss) -> Config:
    pytest.importorskip(scope)
    name = dict(mmdet='loss_cls', mmseg='loss_decode', mmpretrain='loss')[scope]
    head = {**head, name: {**CROSS_ENTROPY, **loss}}
    model = dict(mmdet=dict(roi_head=dict(bbox_head=[head])), mmseg=dict(decode_head=head))
    return Config(dict(default_scope=scope, model=model.get(scope, dict(head=head))))


@pytest.mark.parametrize(
    ('scope', 'head', 'loss', 'message'),
    [
        ('mmdet', BOXES, dict(class_weight=TWO), 'roi_head.bbox_head.loss_cls.class_weight .* 2$'),
        ('mmseg', dict(type='FCNHead', num_classes=3), dict(class_weight=TWO), 'decode_head.* 2$'),
        ('mmpretrain', LINEAR, dict(class_weight=TWO), 'head.loss.class_weight .* 3 outputs'),
        (
            'mmpretrain',
            LINEAR,
            dict(type='LabelSmoothLoss', num_classes=1000),
            'head.loss.num_classes must be that of the head, 3, got 1000',
        ),
        (
            'mmpretrain',
            dict(LINEAR, cal_acc=True, topk=(1, 5)),
            {},
            r'head.topk must be at most model.head.num_classes, 3, .*got \(1, 5\)',
        ),
    ],
)
def test_losses_of_another_number_of_classes_are_refused(scope, head, loss, message):
    with pytest.raises(ConfigError, match=f'^model.{message}'):
        check_losses(make_config(scope, head, **loss))


@pytest.mark.parametrize(
    ('scope', 'head', 'loss'),
    [
        ('mmdet', BOXES, dict(class_weight=THREE)),  # the last is the background
        ('mmdet', BOXES, dict(class_weight=TWO, use_sigmoid=True)),
        ('mmdet', BOXES, dict(type='SeesawLoss', num_classes=2)),
        ('mmdet', dict(type='MultiInstanceBBoxHead', num_classes=2), dict(class_weight=TWO)),
        ('mmseg', dict(type='FCNHead', num_classes=2), dict(class_weight=TWO)),
        ('mmseg', dict(type='FCNHead', num_classes=2), dict(class_weight='weights.npy')),
        ('mmseg', dict(type='FCNHead', num_classes=2, out_channels=1), dict(use_sigmoid=True)),
        ('mmseg', dict(type='SideAdapterCLIPHead', num_classes=2), dict(class_weight=THREE)),
        ('mmseg', dict(type='Mine', num_classes=2), dict(class_weight=THREE)),
        ('mmpretrain', LINEAR, dict(class_weight=THREE)),
        ('mmpretrain', LINEAR, dict(class_weight=ONE, use_soft=True)),
        ('mmpretrain', LINEAR, dict(type='LabelSmoothLoss', num_classes=3)),
        ('mmpretrain', dict(LINEAR, topk=(1, 5)), {}),
    ],
)
def test_losses_that_fit_are_left_alone(scope, head, loss):
    check_losses(make_config(scope, head, **loss))

import pytest
import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit

from mmsecvit.apis.pretrained import find_backbone_config, set_pretrained, starts_from_scratch
from mmsecvit.checkpoints import CheckpointReader

PRETRAINED = dict(type='Pretrained', checkpoint='weights.pth')
NORMAL = dict(type='TruncNormal', layer='Linear', std=0.02)
INIT_CFGS = [
    (None, True),
    (NORMAL, True),
    (PRETRAINED, False),
    ([NORMAL], True),
    ([PRETRAINED], False),
    (dict(PRETRAINED, type=PretrainedInit), False),
    (dict(PRETRAINED, type='mmengine.Pretrained'), False),
]


def config(model):
    return Config(dict(default_scope='mmdet', model=model))


def detector(**kwargs):
    return dict(type='RetinaNet', backbone=dict(type='SecViT', **kwargs))


@pytest.mark.parametrize(('init_cfg', 'expected'), INIT_CFGS)
@pytest.mark.parametrize('outer', [dict, lambda x: dict(type='SoftTeacher', detector=x)])
def test_weights_of_the_backbone_are_no_start_from_scratch(outer, init_cfg, expected):
    assert starts_from_scratch(config(outer(detector(init_cfg=init_cfg)))) == expected


def test_weights_of_the_detector_inside_another_are_no_start_from_scratch():
    model = dict(type='SoftTeacher', detector=dict(detector(), init_cfg=PRETRAINED))
    assert not starts_from_scratch(config(model))


@pytest.mark.parametrize(('frozen_stages', 'expected'), [(-1, False), (0, True), (4, True)])
def test_frozen_stages_of_a_classifier_need_weights(frozen_stages, expected):
    model = dict(type='ImageClassifier', backbone=dict(frozen_stages=frozen_stages))
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    assert starts_from_scratch(cfg) == expected
    cfg.load_from = 'weights.pth'
    assert not starts_from_scratch(cfg)


@pytest.mark.parametrize(
    ('model', 'setting'),
    [
        (detector(), 'model.backbone'),
        (dict(type='SoftTeacher', detector=detector()), 'model.detector.backbone'),
        # mmdet's distiller: the teacher is a config in the student's.
        (dict(detector(), teacher_config=dict(model=detector())), 'model.backbone'),
        (dict(type='X', teacher=detector(), student=detector()), 'model.student.backbone'),
        (dict(type='X', parts=[dict(type='Y'), detector()]), 'model.parts.1.backbone'),
    ],
)
def test_pretrained_reaches_the_backbone_that_is_trained(tmp_path, model, setting):
    torch.save(dict(w=torch.zeros(1)), tmp_path / 'weights.pth')
    cfg = config(model)
    assert [*find_backbone_config(cfg)][-1] == setting
    set_pretrained(cfg, str(tmp_path / 'weights.pth'), CheckpointReader())
    expected = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    assert find_backbone_config(cfg)[setting].init_cfg == expected
    assert not starts_from_scratch(cfg)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (dict(type='GAN'), '^model must have a backbone, got a GAN$'),
        (
            dict(type='Pair', a=detector(), b=detector()),
            'got model.a.backbone and model.b.backbone: give one of them weights by --cfg-options '
            'model.a.backbone.init_cfg.type=Pretrained model.a.backbone.init_cfg.checkpoint=PATH$',
        ),
        (
            dict(detector(), init_cfg=PRETRAINED),
            'weights to model.backbone, but model.init_cfg loads other weights into it afterwards: '
            'set model.init_cfg=None$',
        ),
    ],
)
def test_pretrained_that_reaches_no_backbone_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        set_pretrained(config(model), 'weights.pth', CheckpointReader())

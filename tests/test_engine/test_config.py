import pytest
from mmengine.config import Config

from mmsecvit.engine.config import starts_from_scratch

PRETRAINED = dict(type='Pretrained', checkpoint='weights.pth')
NORMAL = dict(type='TruncNormal', layer='Linear', std=0.02)


@pytest.mark.parametrize(
    ('init_cfg', 'expected'),
    [(None, True), (NORMAL, True), (PRETRAINED, False), ([NORMAL], True), ([PRETRAINED], False)],
)
def test_weights_of_the_backbone_are_no_start_from_scratch(init_cfg, expected):
    model = dict(type='RetinaNet', backbone=dict(type='SecViT', init_cfg=init_cfg))
    cfg = Config(dict(default_scope='mmdet', model=model))
    assert starts_from_scratch(cfg) == expected

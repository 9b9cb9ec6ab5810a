"""The demo's detector with other backbones: equal in all except the backbone, and in its FLOPs."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmsecvit.analysis import count_complexity

pytest.importorskip('mmdet')

CONFIGS = Path(__file__).parents[2] / 'configs'
OPTIONS = dict(window=dict(attention='window'), one_cluster=dict(num_clusters=(1, 1, 1, 1)))
HEADS = ('neck', 'rpn_head', 'bbox_head', 'mask_head')


def load(name):
    return Config.fromfile(CONFIGS / f'mask_rcnn_{name}_digits.py').to_dict()


def test_other_groups_of_tokens_are_the_only_difference():
    for name, options in OPTIONS.items():
        demo = load('secvit')
        demo['model']['backbone'].update(options)
        assert load(f'secvit_{name}') == demo


@pytest.mark.parametrize('name', ['swin', 'convnext'])
def test_other_backbones_are_the_only_difference(name):
    pytest.importorskip('mmpretrain')
    demo, other = load('secvit'), load(name)
    for cfg in (demo, other):
        del cfg['model']['backbone'], cfg['model']['neck']['in_channels']
    assert other == demo


@pytest.mark.slow
def test_other_backbones_have_the_flops_of_secvit():
    pytest.importorskip('mmpretrain')
    flops = {}
    for name in ('secvit', 'swin', 'convnext'):
        parts = count_complexity(CONFIGS / f'mask_rcnn_{name}_digits.py', (128, 128))
        flops[name] = sum(part.flops for key, part in parts.items() if key not in HEADS)
    assert flops['swin'] == pytest.approx(flops['secvit'], rel=0.05)
    assert flops['convnext'] == pytest.approx(flops['secvit'], rel=0.05)

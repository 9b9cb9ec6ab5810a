from pathlib import Path

import pytest
from mmengine.config import Config

from mmsecvit.apis.class_names import check_trained_classes, name_classes
from mmsecvit.apis.config import ConfigError

CONFIGS = Path(__file__).parents[2] / 'configs'
TOOLBOXES = {
    'mmdet': ('CocoDataset', dict(roi_head=dict(bbox_head=dict(type='Shared2FCBBoxHead')))),
    'mmseg': ('BaseSegDataset', dict(decode_head=dict(type='UPerHead'))),
    'mmpretrain': ('CustomDataset', dict(head=dict(type='LinearClsHead'))),
}


def make_config(toolbox, num_classes, **dataset):
    pytest.importorskip(toolbox)
    kind, model = TOOLBOXES[toolbox]
    cfg = Config(dict(default_scope=toolbox, model=model))
    head = cfg.model.roi_head.bbox_head if toolbox == 'mmdet' else next(iter(cfg.model.values()))
    head.num_classes = num_classes
    if dataset:
        inner = dict(type=kind, data_root='absent', **dataset)
        cfg.test_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[inner]))
    return cfg


@pytest.mark.parametrize('toolbox', TOOLBOXES)
def test_a_checkpoint_names_the_classes(toolbox):
    cfg = make_config(toolbox, 2, metainfo=dict(classes=('a', 'b')))
    meta = dict(dataset_meta=dict(classes=('x', 'y'), palette=[[1, 2, 3], [4, 5, 6]]))
    assert name_classes(cfg, meta) == dict(classes=['x', 'y'], palette=[(1, 2, 3), (4, 5, 6)])
    assert name_classes(cfg, dict(CLASSES=('x', 'y')))['classes'] == ['x', 'y']


@pytest.mark.parametrize('toolbox', TOOLBOXES)
def test_without_names_in_the_checkpoint_the_data_set_names_the_classes(toolbox):
    cfg = make_config(toolbox, 25, metainfo=dict(classes=[f'c{i}' for i in range(25)]))
    known = name_classes(cfg, {})
    assert known['classes'] == [f'c{i}' for i in range(25)]
    assert len(known['palette']) == 25
    # Names of another number, such as a data set's own, are not taken.
    meta = dict(dataset_meta=dict(classes=('x', 'y')))
    assert name_classes(cfg, meta)['classes'][24] == 'c24'


@pytest.mark.parametrize('toolbox', TOOLBOXES)
def test_classes_without_names_are_numbered(toolbox):
    for cfg in (make_config(toolbox, 3), make_config(toolbox, 3, ann_file='x')):
        assert name_classes(cfg, {})['classes'] == ['0', '1', '2']


def test_a_toolboxs_own_data_set_names_its_classes():
    assert name_classes(make_config('mmdet', 80, ann_file='x'), {})['classes'][0] == 'person'


def test_our_own_configs_name_their_classes():
    datasets = pytest.importorskip('mmdet.datasets')
    cfg = Config.fromfile(CONFIGS / 'mask_rcnn_secvit_t_1x.py')
    names = name_classes(cfg, {})['classes']
    assert names == list(datasets.CocoDataset.METAINFO['classes'])
    assert len(names) == 80


def test_things_and_stuff_count_together():
    cfg = make_config('mmdet', 3)
    cfg.model = dict(
        panoptic_head=dict(type='Mask2FormerHead', num_things_classes=2, num_stuff_classes=1)
    )
    assert name_classes(cfg, {})['classes'] == ['0', '1', '2']


@pytest.mark.parametrize('toolbox', TOOLBOXES)
def test_classes_must_have_the_order_of_the_checkpoint(toolbox):
    cfg = make_config(toolbox, 2, metainfo=dict(classes=('kite', 'balloon')))

    def check(**meta):
        return check_trained_classes(cfg, ['test'], dict(meta=meta), 'a.pth')

    message = "order of the checkpoint a.pth: its class 0 is 'balloon', got 'kite'"
    with pytest.raises(ConfigError, match=message):
        check(dataset_meta=dict(classes=('balloon', 'kite')))
    with pytest.raises(ConfigError, match=message):
        check(CLASSES=('balloon', 'kite'))
    assert check(dataset_meta=dict(classes=('Kite', 'balloon'))) == []
    assert check(dataset_meta=dict(classes=('kite', 'balloon', 'tree'))) == []
    assert check() == [] and check_trained_classes(cfg, ['test'], {}, 'a.pth') == []
    (warning,) = check(dataset_meta=dict(classes=('kite', 'tree')))
    assert "other names than the checkpoint a.pth: its class 1 is 'tree', got 'balloon'" in warning

"""Test what a config tells of COCO's files, before anything is built."""

import json

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, Registry

from mmsecvit.datasets import set_coco_types
from mmsecvit.datasets.coco import (
    find_coco_faults,
    find_evaluator_faults,
    find_lack_of_objects,
)

datasets = pytest.importorskip('mmdet.datasets')
evaluation = pytest.importorskip('mmdet.evaluation')
CATEGORIES = [dict(id=7, name='dog'), dict(id=3, name='cat')]


def write(path, ids=(0, 1), names='{}.png', categories=CATEGORIES, **keys) -> str:
    images = [dict(id=i, file_name=names.format(i), height=96, width=128) for i in ids]
    path.write_text(json.dumps(dict(images=images, categories=categories, annotations=[]) | keys))
    return str(path)


@pytest.fixture
def cfg(tmp_path) -> Config:
    file = write(tmp_path / 'val.json')
    metainfo = dict(classes=('cat', 'dog'))
    prefix = dict(img=str(tmp_path))
    dataset = dict(type='CocoDataset', ann_file=file, data_prefix=prefix, metainfo=metainfo)
    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dataset)),
            val_dataloader=dict(dataset=dataset),
            val_evaluator=dict(type='CocoMetric', ann_file=file),
        )
    )


def kinds(findings) -> dict[str, int]:
    return {finding.kind: finding.count for finding in findings}


def test_mmdets_types_are_replaced_openly(cfg):
    assert set_coco_types(cfg) == [
        "train_dataloader.dataset.dataset.type='CheckedCocoDataset'",
        "val_dataloader.dataset.type='CheckedCocoDataset'",
        "val_evaluator.type='CheckedCocoMetric'",
    ]
    assert cfg.val_evaluator.type == 'CheckedCocoMetric'
    assert set_coco_types(cfg) == []


@pytest.mark.parametrize('kind', ['mmdet.CocoDataset', datasets.CocoDataset])
def test_scopes_and_classes_are_replaced_as_well(cfg, kind):
    cfg.val_dataloader.dataset.type = kind
    assert len(set_coco_types(cfg)) == 3
    assert cfg.val_dataloader.dataset.type == 'CheckedCocoDataset'


def test_files_of_a_class_of_ones_own_may_be_several(cfg):
    class Own(datasets.BaseDetDataset):
        pass

    dataset = dict(type=Own, ann_file=['a.json', 'b.json'])
    assert [*find_coco_faults('train_dataloader.dataset', ConfigDict(dataset))] == []
    cfg.train_dataloader = cfg.val_dataloader = dict(dataset=dataset)
    assert [*find_lack_of_objects(cfg), *find_evaluator_faults(cfg, 'val')] == []


def test_classes_of_ones_own_of_the_same_name_stay(cfg):
    class CocoDataset(datasets.CocoDataset):
        pass

    class CocoMetric(evaluation.CocoMetric):
        pass

    cfg.train_dataloader.dataset.dataset.type = cfg.val_dataloader.dataset.type = CocoDataset
    cfg.val_evaluator.type = CocoMetric
    assert set_coco_types(cfg) == []
    own = Registry('dataset', parent=DATASETS, scope='mypkg')
    try:
        own.register_module(module=CocoDataset)
        cfg.train_dataloader.dataset.dataset.type = 'mypkg.CocoDataset'
        assert set_coco_types(cfg) == []
        assert cfg.train_dataloader.dataset.dataset.type == 'mypkg.CocoDataset'
    finally:
        DATASETS.children.pop('mypkg')


def test_other_data_sets_stay_with_their_metrics(cfg):
    cfg.val_dataloader.dataset.type = 'LVISV1Dataset'
    assert len(set_coco_types(cfg)) == 1
    assert cfg.val_evaluator.type == 'CocoMetric'
    cfg.default_scope = 'mmseg'
    cfg.train_dataloader.dataset.dataset.type = 'CocoDataset'
    assert set_coco_types(cfg) == []


@pytest.mark.parametrize('kind', ['CocoDataset', 'CheckedCocoDataset'])
def test_the_order_of_classes_does_not_matter(cfg, kind):
    dataset = cfg.val_dataloader.dataset
    dataset.type = kind
    assert kinds(find_coco_faults('x', dataset)) == {}
    dataset.metainfo.classes = ('cat', 'horse', 'cow')
    assert kinds(find_coco_faults('x', dataset)) == {'class missing': 2}


@pytest.mark.parametrize('kind', ['CityscapesDataset', datasets.DeepFashionDataset])
def test_other_classes_must_have_the_order_of_the_file(cfg, tmp_path, kind):
    dataset = cfg.val_dataloader.dataset
    dataset.type = kind
    (finding,) = find_coco_faults('x', dataset)
    name = kind if isinstance(kind, str) else kind.__name__
    assert finding.message == (
        f"x.metainfo.classes must have the order of the categories of {tmp_path}/val.json, 'dog', "
        f"'cat', since a {name} numbers classes in that order, got 'cat', 'dog'"
    )
    dataset.metainfo.classes = ('dog', 'cat')
    assert kinds(find_coco_faults('x', dataset)) == {}
    dataset.type = 'Objects365V2Dataset'  # which numbers them by their ids
    dataset.metainfo.classes = ('cat', 'dog')
    assert kinds(find_coco_faults('x', dataset)) == {}


@pytest.mark.parametrize('prefix', [None, dict(img_path='train/')])
def test_the_folder_of_images_must_be_named_as_mmdet_does(cfg, prefix):
    cfg.val_dataloader.dataset.data_prefix = prefix
    assert kinds(find_coco_faults('x', cfg.val_dataloader.dataset)) == {'data_prefix': 1}


def test_a_data_set_that_finds_images_by_itself_needs_no_folder(cfg):
    class Own(datasets.CocoDataset):
        def parse_data_info(self, raw_data_info):
            return dict(img_path=raw_data_info['raw_img_info']['file_name'])

    dataset = cfg.val_dataloader.dataset
    dataset.update(type=Own, data_prefix=None)
    dataset.metainfo.classes = ('dog', 'cat')
    assert kinds(find_coco_faults('x', dataset)) == {}


def test_metrics_that_number_by_the_file_are_found(cfg):
    assert kinds(find_evaluator_faults(cfg, 'val')) == {}
    cfg.val_evaluator.type = 'FasterCocoMetric'
    assert kinds(find_evaluator_faults(cfg, 'val')) == {'order of classes': 1}


def test_the_whole_file_is_read_by_a_thorough_check(cfg, tmp_path):
    dataset = cfg.val_dataloader.dataset
    write(tmp_path / 'val.json', annotations=[dict(id=1, image_id=0, category_id=3, iscrowd=0)])
    assert kinds(find_coco_faults('x', dataset)) == {}
    (finding,) = find_coco_faults('x', dataset, thorough=True)
    assert finding.message.startswith(f'x.ann_file {tmp_path}/val.json has 1 of 1 annotations')
    assert kinds(find_evaluator_faults(cfg, 'val', thorough=True)) == {'bbox missing': 1}


@pytest.mark.parametrize('thorough', [False, True])
@pytest.mark.parametrize('text', ['', '{"categories": [', '{"categories": [{"id": 1}]}'])
def test_other_files_are_named(cfg, tmp_path, text, thorough):
    (tmp_path / 'val.json').write_text(text)
    (finding,) = find_coco_faults('x', cfg.val_dataloader.dataset, thorough)
    assert f'{tmp_path}/val.json' in finding.message


def test_the_evaluator_must_have_the_images_of_the_data_set(cfg, tmp_path):
    def compare(*arguments, **keys):
        cfg.val_evaluator.ann_file = write(tmp_path / 'other.json', *arguments, **keys)
        return [finding.message.partition(':')[2] for finding in find_evaluator_faults(cfg, 'val')]

    assert compare() == []
    assert compare(names='folder/{}.png') == []
    assert compare((0, 1, 2)) == [" 1 are only in it ('2')"]
    assert compare((0,)) == [" 1 are not in it ('1')"]
    assert compare(names='{}.jpg') == [" 2 have another file_name or size ('0', '1')"]
    assert compare((5,), categories=CATEGORIES[:1]) != []
    compare(('0', '1'))  # in a list of names, they look the same
    (finding,) = find_evaluator_faults(cfg, 'val')
    assert (finding.kind, finding.count) == ('type of image ids', 2)
    assert finding.message.endswith("numbers or strings, but has '0' for 0")
    assert compare(('0', '2')) == [" 2 are not in it ('0', '1'), 2 are only in it ('0', '2')"]
    sizes = [('96', '128'), (96.0, 128), (None, 128)]  # an unknown size is no other one
    for height, width in sizes:
        images = [dict(id=i, file_name=f'{i}.png', height=height, width=width) for i in (0, 1)]
        assert compare(images=images) == []
    images[0]['width'] = '127'
    assert compare(images=images) == [" 1 have another file_name or size ('0')"]
    cfg.val_evaluator.format_only = True
    assert compare((0,)) == []


def test_the_evaluator_must_have_the_classes_of_the_data_set(cfg, tmp_path):
    cfg.val_evaluator.ann_file = write(tmp_path / 'other.json', categories=CATEGORIES[:1])
    (finding,) = find_evaluator_faults(cfg, 'val')
    assert finding.message == (
        f'val_dataloader.dataset.metainfo.classes must be among the categories of {tmp_path}/other'
        ".json, which are 'dog'; it has no 'cat'"
    )


def test_joined_files_need_one_file_of_the_evaluator_and_ids_of_their_own(cfg, tmp_path):
    first = cfg.val_dataloader.dataset
    second = ConfigDict(first, ann_file=write(tmp_path / 'second.json', (2, 3)))
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, second])
    assert kinds(find_evaluator_faults(cfg, 'val')) == {'images of the evaluator': 2}
    cfg.val_evaluator.ann_file = write(tmp_path / 'both.json', range(4))
    assert kinds(find_evaluator_faults(cfg, 'val')) == {}
    write(tmp_path / 'second.json', (1, 2))
    assert kinds(find_evaluator_faults(cfg, 'val')) == {'image ids of several files': 1}
    # An evaluator of several data sets has a metric for each.
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=[cfg.val_evaluator])
    assert kinds(find_evaluator_faults(cfg, 'val')) == {}


def test_an_evaluator_stays_with_a_data_set_without_files(cfg):
    cfg.val_dataloader.dataset = dict(type='MyDataset', number=5)
    assert kinds(find_evaluator_faults(cfg, 'val')) == {}


def test_evaluators_of_other_kinds_are_left_alone(cfg):
    cfg.val_evaluator = [dict(type='VOCMetric'), dict(type='CocoMetric')]
    assert kinds(find_evaluator_faults(cfg, 'val')) == {}
    cfg.pop('val_evaluator')
    assert kinds(find_evaluator_faults(cfg, 'val')) == {}

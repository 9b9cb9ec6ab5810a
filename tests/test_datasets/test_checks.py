import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mmsecvit import apis
from mmsecvit.datasets import check_data

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture
def coco(tmp_path) -> Config:
    """A detector's config, with a data set of two classes in COCO's layout."""
    categories = [dict(id=7, name='dog', note='the "categories" of old'), dict(id=3, name='cat')]
    cfg = Config.fromfile(CONFIGS / 'retinanet_secvit_t_1x.py')
    (tmp_path / 'annotations').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'{split}2017').mkdir()
        (tmp_path / f'annotations/instances_{split}2017.json').write_text(
            json.dumps(dict(images=[], annotations=[dict(id=1)], categories=categories), indent=1)
        )
        cfg[f'{split}_dataloader'].dataset.update(
            data_root=f'{tmp_path}/', metainfo=dict(classes=('cat', 'dog'))
        )
    cfg.val_evaluator.ann_file = f'{tmp_path}/annotations/instances_val2017.json'
    return cfg


def test_complete_data_is_accepted(coco):
    assert check_data(coco, ('train', 'val')) == []


def test_an_absent_root_is_named_with_its_setting(coco):
    coco.train_dataloader.dataset.data_root = 'nowhere/coco'
    message = '^train_dataloader.dataset.data_root must exist, but nowhere/coco does not$'
    with pytest.raises(FileNotFoundError, match=message):
        check_data(coco, ('train', 'val'))
    check_data(coco, ('val',))


@pytest.mark.parametrize(
    ('part', 'setting'),
    [
        ('val2017', 'val_dataloader.dataset.data_prefix.img'),
        ('annotations/instances_val2017.json', 'val_dataloader.dataset.ann_file'),
    ],
)
def test_an_absent_part_is_named_with_its_setting(coco, tmp_path, part, setting):
    (tmp_path / part).rename(tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=f'^{setting} must exist, but .*{part} does not$'):
        check_data(coco, ('train', 'val'))


def test_an_absent_file_of_the_evaluator_is_named(coco):
    coco.val_evaluator.ann_file = 'nowhere.json'
    message = '^val_evaluator.ann_file must exist, but nowhere.json does not$'
    with pytest.raises(FileNotFoundError, match=message):
        check_data(coco, ('train', 'val'))


def test_an_absent_file_of_a_metric_inside_an_evaluator_is_named(coco):
    metric = dict(coco.val_evaluator, ann_file='nowhere.json')
    for evaluator, setting in (
        (dict(type='Evaluator', metrics=[metric]), 'val_evaluator.metrics.0'),
        ([dict(type='VOCMetric'), metric], 'val_evaluator.1'),
    ):
        coco.val_evaluator = evaluator
        message = f'^{setting}.ann_file must exist, but nowhere.json does not$'
        with pytest.raises(FileNotFoundError, match=message):
            check_data(coco, ('val',))
    metric.update(ann_file='s3://bucket/val.json')
    coco.val_evaluator = dict(type='Evaluator', metrics=[metric, dict(metric, ann_file=None)])
    check_data(coco, ('val',))


def test_classes_that_the_annotations_lack_are_named(coco, tmp_path):
    coco.train_dataloader.dataset.metainfo.classes = ('cat', 'horse')
    message = (
        f'^train_dataloader.dataset.metainfo.classes must be among the categories of {tmp_path}'
        "/annotations/instances_train2017.json, which are 'dog', 'cat'; it has no 'horse'$"
    )
    with pytest.raises(ValueError, match=message):
        check_data(coco, ('train',))
    # The 80 of COCO, where metainfo says nothing.
    coco.train_dataloader.dataset.pop('metainfo')
    with pytest.raises(ValueError, match="it has no 'person', 'bicycle', .* and 73 more$"):
        check_data(coco, ('train',))


def test_data_sets_inside_others_are_found(coco):
    inner = coco.train_dataloader.dataset.copy()
    inner.data_root = 'nowhere'
    coco.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[coco.train_dataloader.dataset, inner]),
    )
    with pytest.raises(
        FileNotFoundError, match='train_dataloader.dataset.dataset.datasets.1.data_root must exist'
    ):
        check_data(coco, ('train',))


@pytest.mark.parametrize(
    'content',
    [
        '{"images": []}',
        '{"categories": [{',
        '{"categories": {"dog": 7}}',
        '{"categories": [{"id": 7}]}',
        'no JSON',
        '',
    ],
)
def test_a_file_without_categories_is_refused(coco, tmp_path, content):
    (tmp_path / 'annotations/instances_train2017.json').write_text(content)
    with pytest.raises(ValueError, match=r'instances_train2017.json has no list "categories"'):
        check_data(coco, ('train',))


@pytest.mark.parametrize('deep', [['x'], [dict(name='x')], [], 'dog', 3])
def test_categories_are_found_above_words_of_ones_own(coco, tmp_path, deep):
    file = tmp_path / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    content['annotations'][0]['attributes'] = dict(categories=deep)
    for info in ({}, dict(info='categories'), dict(info=['categories', 'images'])):
        last = dict(annotations=content['annotations'])  # after the list of categories
        first = {key: content[key] for key in ('images', 'categories')}
        file.write_text(json.dumps(first | last | info))
        assert check_data(coco, ('train',)) == []


@pytest.mark.parametrize('without', [dict(annotations=[]), {}, dict(annotations=None)])
def test_training_without_objects_is_refused(coco, tmp_path, without):
    file = tmp_path / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    del content['annotations']
    file.write_text(json.dumps(content | without))
    message = rf'^train_dataloader.dataset.ann_file {file} must have annotations to train with$'
    with pytest.raises(ValueError, match=message):
        check_data(coco, ('train',))
    # Images without objects can be joined to others.
    empty = coco.train_dataloader.dataset
    other = dict(empty, ann_file='annotations/instances_val2017.json')
    coco.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[other, empty])
    assert check_data(coco, ('train',)) == []
    coco.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[empty, empty])
    with pytest.raises(ValueError, match='datasets.1.ann_file .* must have annotations'):
        check_data(coco, ('train',))


def test_a_class_that_is_named_twice_is_refused(coco):
    coco.train_dataloader.dataset.metainfo.classes = ('cat', 'cat')
    message = "dataset.metainfo.classes must name each class once, got twice: 'cat'"
    with pytest.raises(ValueError, match=message):
        check_data(coco, ('train',))


def test_data_in_a_remote_store_is_left_to_its_backend(coco):
    coco.train_dataloader.dataset.data_root = 's3://bucket/coco'
    assert check_data(coco, ('train',)) == []


@pytest.mark.parametrize('family', ['mask_rcnn_secvit_t_1x', 'semantic_fpn_secvit_t_80k'])
def test_training_and_testing_say_it_before_anything_is_made(tmp_path, family):
    config = CONFIGS / f'{family}.py'
    options = {
        f'{split}_dataloader.dataset.data_root': 'nowhere' for split in ('train', 'val', 'test')
    }
    work_dir = tmp_path / 'work'
    with pytest.raises(FileNotFoundError, match='^train_dataloader.dataset.data_root must exist'):
        apis.train(config, work_dir=str(work_dir), cfg_options=options)
    with pytest.raises(FileNotFoundError, match='^test_dataloader.dataset.data_root must exist'):
        apis.test(config, 'x.pth', work_dir=str(work_dir), cfg_options=options)
    assert not work_dir.exists()


@pytest.fixture(params=['ImageNet', 'CustomDataset'])
def folders(request, tmp_path) -> Config:
    """A classifier's config, with one image in each of two folders of classes."""
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            path = tmp_path / split / name / 'deeper' / 'x.JPG'
            path.parent.mkdir(parents=True)
            path.touch()
    cfg = Config.fromfile(CONFIGS / 'secvit_t_in1k.py')
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(tmp_path)
        dataset.metainfo = dict(classes=('cat', 'dog'))
        if request.param == 'CustomDataset':
            dataset.type = request.param
            dataset.data_prefix = dataset.pop('split')
    return cfg


def test_an_empty_class_folder_is_named_with_its_setting(folders, tmp_path):
    check_data(folders, ('train', 'val'))
    (tmp_path / 'train/dog/deeper/x.JPG').rename(tmp_path / 'train/dog/notes.txt')
    name = 'split' if folders.train_dataloader.dataset.type == 'ImageNet' else 'data_prefix'
    message = (
        rf'^train_dataloader.dataset.{name} must have images of each class, but there are none in '
        rf'{tmp_path}/train/dog: fill or remove the folder$'
    )
    with pytest.raises(ValueError, match=message):
        check_data(folders, ('train', 'val'))
    check_data(folders, ('val',))
    # With an annotation file the folders do not matter.
    folders.train_dataloader.dataset.ann_file = 'meta/train.txt'
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/train.txt').write_text('cat/deeper/x.JPG 0')
    check_data(folders, ('train',))


def test_folders_are_checked_where_a_config_names_the_class(folders, tmp_path):
    datasets = pytest.importorskip('mmpretrain.datasets')
    dataset = folders.train_dataloader.dataset
    dataset.type = getattr(datasets, dataset.type)
    check_data(folders, ('train',))
    (tmp_path / 'train/dog/deeper/x.JPG').unlink()
    with pytest.raises(ValueError, match='must have images of each class'):
        check_data(folders, ('train',))


def test_absent_folders_of_classes_are_named(folders, tmp_path):
    (tmp_path / 'train').rename(tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=f'must exist, but {tmp_path}/train does not$'):
        check_data(folders, ('train',))
    (tmp_path / 'train').mkdir()
    with pytest.raises(ValueError, match=f'for each class, but {tmp_path}/train has none$'):
        check_data(folders, ('train',))
    folders.train_dataloader.dataset.data_root = 'nowhere'
    with pytest.raises(FileNotFoundError, match='dataset.data_root must exist, but nowhere does'):
        check_data(folders, ('train',))


def test_data_that_a_classifier_downloads_is_left_alone():
    cfg = Config.fromfile(CONFIGS / 'secvit_t_cifar10.py')
    assert check_data(cfg, ('train', 'val')) == []


def test_annotations_in_cocos_format_are_one_file(tmp_path):
    pytest.importorskip('mmdet')
    dataset = dict(type='CocoDataset', data_root=str(tmp_path), pipeline=[])
    for path, words in (('.', 'a file, but .* is a folder'), (['a'], 'the path of one file, got')):
        cfg = Config(dict(default_scope='mmdet'))
        cfg.train_dataloader = dict(dataset=dict(dataset, ann_file=path))
        with pytest.raises(ValueError, match=f'train_dataloader.dataset.ann_file must be {words}'):
            check_data(cfg, ('train',))

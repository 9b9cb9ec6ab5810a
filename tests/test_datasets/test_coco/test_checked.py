"""Test mmdet's data set and metric with checked annotations."""

import json
from itertools import permutations
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.structures import InstanceData

import mmsecvit  # noqa: F401
from mmsecvit.datasets import DataError

pytest.importorskip('mmdet')
IDS = dict(cat=3, dog=7, eel=5)
BOXES = dict(cat=[10, 20, 30, 30], dog=[50, 20, 30, 30], eel=[90, 20, 30, 30])
LOAD = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)


def corners(box):
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@pytest.fixture
def content() -> dict:
    """Two images with an animal of each kind. The first annotation has id 0."""
    images = [dict(id=i, file_name=f'{i}.png', height=96, width=128) for i in range(2)]
    annotations = [
        dict(image_id=image, category_id=IDS[name], bbox=BOXES[name], iscrowd=0, area=900)
        for image in range(2)
        for name in IDS
    ]
    for i, annotation in enumerate(annotations):
        annotation.update(id=i, segmentation=[corners(annotation['bbox'])])
    return dict(images=images, annotations=annotations, categories=[])


@pytest.fixture
def log(caplog):
    """Collect what goes to mmengine's log."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture
def write(tmp_path, content):
    """Write the file with its categories in an order."""

    def write(order=('cat', 'dog', 'eel')) -> str:
        content['categories'] = [dict(id=IDS[name], name=name) for name in order]
        path = tmp_path / 'animals.json'
        path.write_text(json.dumps(content))
        return str(path)

    return write


def build_dataset(file: str, classes: tuple = ('cat', 'dog', 'eel'), **options):
    metainfo = dict(classes=classes)
    options = dict(pipeline=[LOAD], test_mode=True, data_prefix=dict(img='')) | options
    return DATASETS.build(
        dict(type='CheckedCocoDataset', ann_file=file, metainfo=metainfo, **options)
    )


def evaluate(dataset, file: str, found: tuple = ('cat', 'dog', 'eel'), **options) -> dict:
    """Score a network that finds some animals in the images of the data set, and errs in none."""
    options = dict(metric=['bbox', 'segm']) | options
    metric = METRICS.build(dict(type='CheckedCocoMetric', ann_file=file, **options))
    metric.dataset_meta = dataset.metainfo
    names = dataset.metainfo['classes']
    boxes = torch.tensor([BOXES[name] for name in found], dtype=torch.float)
    masks = torch.zeros(len(found), 96, 128, dtype=torch.bool)
    for mask, (x, y, width, height) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y : y + height, x : x + width] = True
    boxes[:, 2:] += boxes[:, :2]
    predicted = InstanceData(
        bboxes=boxes,
        labels=torch.tensor([names.index(name) for name in found]),
        scores=torch.ones(len(found)),
        masks=masks,
    )
    samples = [
        dict(
            img_id=dataset.get_data_info(i)['img_id'], ori_shape=(96, 128), pred_instances=predicted
        )
        for i in range(len(dataset))
    ]
    metric.process({}, samples)
    return metric.evaluate(len(samples))


@pytest.mark.parametrize('order', permutations(IDS))
def test_label_i_is_class_i_whatever_the_order_of_the_file(write, order):
    file = write(order)
    for classes in permutations(IDS):
        dataset = build_dataset(file, classes)
        for instance in dataset.get_data_info(0)['instances']:
            x, y, right, bottom = instance['bbox']
            assert BOXES[classes[instance['bbox_label']]] == [x, y, right - x, bottom - y]


@pytest.mark.parametrize('order', permutations(IDS))
def test_scores_are_those_of_the_classes_whatever_the_order_of_the_file(write, order, tmp_path):
    file = write(order)
    dataset = build_dataset(file, ('eel', 'cat', 'dog'))
    prefix = str(tmp_path / 'results')
    scores = evaluate(dataset, file, ('cat', 'eel'), classwise=True, outfile_prefix=prefix)
    assert scores['coco/cat_precision'] == scores['coco/eel_precision'] == 1
    assert scores['coco/dog_precision'] == 0
    assert scores['coco/bbox_mAP'] == scores['coco/segm_mAP'] == 0.667
    # Files for others have the categories' own ids.
    results = json.loads((tmp_path / 'results.bbox.json').read_text())
    names = {number: name for name, number in IDS.items()}
    assert all(BOXES[names[r['category_id']]] == r['bbox'] for r in results)


def test_classes_may_be_some_of_the_categories(write):
    file = write(('dog', 'eel', 'cat'))
    dataset = build_dataset(file, ('eel', 'dog'))
    assert evaluate(dataset, file, ('eel', 'dog'))['coco/bbox_mAP'] == 1
    assert len(dataset.get_data_info(0)['instances']) == 2


def test_a_category_without_a_name_stays_without_objects(write, content):
    file = Path(write())
    categories = content['categories']
    content['categories'] = [dict(id=1), *categories, dict(id=8, name='eel')]
    file.write_text(json.dumps(content))
    dataset = build_dataset(str(file))
    assert [i['bbox_label'] for i in dataset.get_data_info(0)['instances']] == [0, 1, 2]
    assert evaluate(dataset, str(file))['coco/bbox_mAP'] == 1


def test_what_is_mended_is_loaded_and_scored(write, content, log):
    for i, annotation in enumerate(content['annotations']):
        annotation.update(id=i // 2, area=0, segmentation=annotation['segmentation'][0])
        del annotation['iscrowd']
    file = write()
    dataset = build_dataset(file)
    assert [len(dataset.get_data_info(i)['instances']) for i in range(2)] == [3, 3]
    scores = evaluate(dataset, file)
    assert scores['coco/bbox_mAP'] == scores['coco/segm_mAP'] == scores['coco/bbox_mAP_s'] == 1
    messages = [record.message for record in log.records if 'iscrowd' in record.message]
    assert messages == [
        f'ann_file {file} has 6 of 6 annotations without "iscrowd" (id 0, id 0, id 1, id 1, id 2, '
        '...): it is taken as 0'
    ]


def test_scores_are_those_of_the_data_sets_images(write, log):
    file = write()
    dataset = build_dataset(file, indices=[1])
    assert evaluate(dataset, file)['coco/bbox_mAP'] == 1
    assert '1 of 2 images of' in log.text


@pytest.mark.parametrize('key', ['bbox', 'segmentation', 'image_id', 'category_id'])
def test_what_cannot_be_mended_is_refused_by_data_set_and_metric(write, content, key):
    content['annotations'][2][key] = None
    content['annotations'][2]['segmentation'] = None
    file = write()
    has = f'^ann_file {file} has 1 of 6 annotations without .*"{key}"'
    with pytest.raises(DataError, match=has):
        build_dataset(file)
    with pytest.raises(DataError, match=has):
        metric = METRICS.build(dict(type='CheckedCocoMetric', ann_file=file, metric='segm'))
        metric.dataset_meta = dict(classes=('eel',))


def test_models_without_masks_need_no_segmentations(write, content):
    for annotation in content['annotations']:
        del annotation['segmentation'], annotation['area']
    file = write()
    dataset = build_dataset(file, pipeline=[dict(LOAD, with_mask=False)])
    assert evaluate(dataset, file, metric='bbox')['coco/bbox_mAP'] == 1


def test_a_metric_may_take_the_data_sets_annotations(write):
    dataset = build_dataset(write(('eel', 'dog', 'cat')))
    metric = METRICS.build(dict(type='CheckedCocoMetric', classwise=True))
    metric.dataset_meta = dataset.metainfo
    info = dataset.get_data_info(0)
    boxes = torch.tensor([instance['bbox'] for instance in info['instances']])
    labels = torch.tensor([instance['bbox_label'] for instance in info['instances']])
    predicted = dict(bboxes=boxes.float(), labels=labels, scores=torch.ones(len(labels)))
    metric.process({}, [dict(info, ori_shape=(96, 128), pred_instances=predicted)])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1


def test_images_without_annotations_are_predicted_for(write, content, tmp_path):
    del content['annotations']
    file = write(('eel', 'dog', 'cat'))
    dataset = build_dataset(file, pipeline=[])
    prefix = str(tmp_path / 'results')
    assert evaluate(dataset, file, format_only=True, outfile_prefix=prefix) == {}
    results = json.loads((tmp_path / 'results.segm.json').read_text())
    assert [result['category_id'] for result in results] == [3, 7, 5] * 2


def test_the_filter_says_what_it_leaves_out(write, content, log):
    content['annotations'] = content['annotations'][:3]
    content['images'] += [dict(content['images'][0], id=2, height=20, file_name='2.png')]
    file = write()
    filter_cfg = dict(filter_empty_gt=True, min_size=32)
    dataset = build_dataset(file, test_mode=False, filter_cfg=filter_cfg)
    assert len(dataset) == 1
    assert (
        f'filter_cfg leaves out 2 of 3 images of {file}: 1 with a side below 32, the others '
        'without objects of the classes'
    ) in log.text
    content['annotations'] = []
    with pytest.raises(DataError, match='filter_cfg leaves out 3 of 3 images'):
        build_dataset(write(), test_mode=False, filter_cfg=filter_cfg)


@pytest.mark.parametrize('text', ['', '{"images": [', '\xff', '[1, 2]'])
def test_files_of_another_kind_are_named(tmp_path, text):
    file = tmp_path / 'x.json'
    file.write_bytes(text.encode('latin1'))
    with pytest.raises(DataError, match=f'^ann_file {file} must be'):
        build_dataset(str(file))


def test_a_byte_order_mark_is_no_fault(write, tmp_path):
    file = tmp_path / 'windows.json'
    with open(write(), 'rb') as source:
        file.write_bytes(b'\xef\xbb\xbf' + source.read())
    assert len(build_dataset(str(file))) == 2


def test_only_the_classes_are_loaded_lazily(write):
    dataset = build_dataset(write(), lazy_init=True)
    assert dataset.metainfo['classes'] == ('cat', 'dog', 'eel')


@pytest.mark.parametrize(('thresholds', 'at_75'), [([0.5, 0.75], 1.0), (0.5, -1.0), ((0.75,), 1.0)])
def test_thresholds_may_be_a_number_or_a_list(write, thresholds, at_75):
    file = write()
    scores = evaluate(build_dataset(file), file, metric='bbox', iou_thrs=thresholds)
    assert (scores['coco/bbox_mAP'], scores['coco/bbox_mAP_75']) == (1.0, at_75)

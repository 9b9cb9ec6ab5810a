"""Pipelines: each test leaves out or moves one step of a good pipeline, and states what is said."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmsecvit.apis.config import ConfigError
from mmsecvit.apis.first_samples import _scales_boxes, check_first_samples

CONFIG = Path(__file__).parents[2] / 'configs' / 'mask_rcnn_secvit_digits.py'

ARCH = dict(embed_dims=[32, 64, 128, 192], depths=[1, 1, 1, 1], num_heads=[2, 4, 8, 12])
BACKBONE = dict(type='SecViT', arch=ARCH, variant='released', num_clusters=(2, 1, 1, 1))
LOAD = dict(type='LoadImageFromFile')
RESIZE = dict(type='Resize', scale=(48, 48), keep_ratio=True)
META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def make_runner(model, metrics, dataset: dict) -> SimpleNamespace:
    scope = type(model).__module__.partition('.')[0]
    with DefaultScope.overwrite_default_scope(scope):
        data = DATASETS.build(dataset)
    sampler = DefaultSampler(data, shuffle=False)
    loader = DataLoader(data, 2, sampler=sampler, collate_fn=pseudo_collate)
    loop = SimpleNamespace(dataloader=loader, evaluator=Evaluator(metrics))
    loops = dict.fromkeys(('train_loop', 'val_loop', 'test_loop'), loop)
    cfg = Config(dict(default_scope=scope))
    return SimpleNamespace(model=model, cfg=cfg, **loops)


def check(model, metrics, split: str, dataset: dict) -> None:
    check_first_samples(make_runner(model, metrics, dataset), split)


def build(scope: str, model: dict):
    pytest.importorskip(scope)
    with MODELS.switch_scope_and_registry(scope) as registry:
        return registry.build(model)


@pytest.fixture
def images(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    for i in range(2):
        for folder in ('img', 'ann', 'classes/rose'):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / 'img' / f'{i}.jpg')
        Image.fromarray(values).save(tmp_path / 'classes' / 'rose' / f'{i}.jpg')
        Image.fromarray(values[..., 0] // 128).save(tmp_path / 'ann' / f'{i}.png')
    return tmp_path


@pytest.fixture(scope='module')
def detector():
    return build('mmdet', Config.fromfile(CONFIG).model)


@pytest.fixture
def boxes(images):
    mmdet = pytest.importorskip('mmdet.datasets')
    square = [[10, 10, 40, 10, 40, 40, 10, 40]]
    known = dict(bbox=[10, 10, 40, 40], bbox_label=0, ignore_flag=0, mask=square)
    path = str(images / 'img' / '0.jpg')
    sample = dict(img_path=path, img_id=0, height=64, width=96, instances=[known])

    class Boxes(mmdet.BaseDetDataset):
        def load_data_list(self) -> list[dict]:
            return [sample] * 2

    return lambda pipeline, **options: dict(
        type=Boxes, pipeline=pipeline, serialize_data=False, **options
    )


def annotations(**options) -> dict:
    return dict(type='LoadAnnotations', **options)


def pack(keys: tuple = META) -> dict:
    return dict(type='PackDetInputs', meta_keys=keys)


@pytest.mark.parametrize(
    ('pipeline', 'words'),
    [
        ([LOAD, annotations(with_bbox=True, with_mask=True), RESIZE], 'must end with PackDetInput'),
        ([LOAD, annotations(with_bbox=True), RESIZE, pack()], r'\(with_mask=True\) does, since'),
        ([LOAD, RESIZE, pack()], r'must give the bboxes of .* LoadAnnotations\(with_bbox=True\)'),
        (
            [LOAD, dict(type='FilterAnnotations')],
            'cannot make a sample of .*img/0.jpg: FilterAnnotations raises AssertionError: ',
        ),
    ],
)
def test_a_detectors_training_needs_objects(detector, boxes, pipeline, words):
    with pytest.raises(ConfigError, match=f'^train_dataloader.dataset.pipeline .*{words}'):
        check(detector, [], 'train', boxes(pipeline))
    good = [LOAD, annotations(with_bbox=True, with_mask=True), RESIZE, pack()]
    check(detector, [], 'train', boxes(good))


@pytest.mark.parametrize('key', ['img_id', 'ori_shape', 'scale_factor'])
def test_a_detectors_evaluation_needs_keys(detector, boxes, key):
    from mmdet.evaluation import CocoMetric

    metrics = [CocoMetric()]
    check(detector, metrics, 'val', boxes([LOAD, RESIZE, pack()], test_mode=True))
    short = pack(tuple(name for name in META if name != key))
    words = rf'^test_dataloader.dataset.pipeline must give {key}.* by meta_keys of PackDetInputs'
    with pytest.raises(ConfigError, match=words):
        check(detector, metrics, 'test', boxes([LOAD, RESIZE, short], test_mode=True))
    with pytest.raises(ConfigError, match='must give scale_factor, which a Resize sets,'):
        check(detector, metrics, 'val', boxes([LOAD, pack()], test_mode=True))
    if key == 'img_id':  # without a metric that needs it
        check(detector, [], 'test', boxes([LOAD, RESIZE, short], test_mode=True))


def test_heads_that_do_without_the_scale_are_left_alone():
    heads = pytest.importorskip('mmdet.models.dense_heads')
    with DefaultScope.overwrite_default_scope('mmdet'):
        scaled = heads.RetinaHead(num_classes=2, in_channels=4, feat_channels=4)
        other = heads.CenterNetHead(in_channels=4, feat_channels=4, num_classes=2)
    assert _scales_boxes(scaled)
    assert not _scales_boxes(other)


@pytest.fixture(scope='module')
def segmenter():
    head = dict(in_channels=[32, 64, 128, 192], in_index=[0, 1, 2, 3], channels=32, num_classes=2)
    return build(
        'mmseg',
        dict(
            type='EncoderDecoder',
            backbone=BACKBONE,
            decode_head=dict(type='UPerHead', **head),
            data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
        ),
    )


CROP, PACK = dict(type='RandomCrop', crop_size=(32, 32)), dict(type='PackSegInputs')


@pytest.mark.parametrize(
    ('split', 'pipeline', 'words'),
    [
        ('train', [LOAD, annotations()], 'must end with PackSegInputs, .* gives .*gt_seg_map'),
        ('train', [LOAD, PACK], 'must give label images, .* learns from them'),
        ('val', [LOAD, RESIZE, PACK], 'must give label images, .* IoUMetric compares with them'),
        ('val', [LOAD, annotations(), RESIZE, PACK], 'must leave .*, 96x64, but they have 48x32'),
        ('val', [LOAD, annotations(), CROP, PACK], 'must leave .*, 96x64, but they have 32x32'),
    ],
)
def test_a_segmenter_needs_label_images(segmenter, images, split, pipeline, words):
    from mmseg.evaluation import IoUMetric

    prefix = dict(img_path='img', seg_map_path='ann')
    options = dict(type='BaseSegDataset', data_root=str(images), data_prefix=prefix)
    options.update(metainfo=dict(classes=('a', 'b')), serialize_data=False)
    metrics = [IoUMetric()]
    with pytest.raises(ConfigError, match=f'^{split}_dataloader.dataset.pipeline {words}'):
        check(segmenter, metrics, split, dict(options, pipeline=pipeline))
    good = [LOAD, annotations(), CROP, PACK]
    if split == 'val':
        good = [LOAD, RESIZE, annotations(), PACK]
    check(segmenter, metrics, split, dict(options, pipeline=good))
    parts = [dict(options, pipeline=steps) for steps in (good, pipeline)]
    with pytest.raises(ConfigError, match=f'^{split}_dataloader.dataset.datasets.1.pipeline '):
        check(segmenter, metrics, split, dict(type='ConcatDataset', datasets=parts))
    unlabeled = dict(options, pipeline=[LOAD, RESIZE, PACK])
    check(segmenter, [IoUMetric(format_only=True, output_dir='')], 'test', unlabeled)


@pytest.fixture(scope='module')
def classifier():
    head = dict(type='LinearClsHead', num_classes=1, in_channels=192)
    neck = dict(type='GlobalAveragePooling')
    backbone = dict(BACKBONE, out_indices=(3,))
    return build(
        'mmpretrain', dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    )


def folders(images, *pipeline) -> dict:
    root = str(images / 'classes')
    return dict(type='CustomDataset', data_root=root, pipeline=list(pipeline), serialize_data=False)


def test_a_classifier_needs_images_of_32_pixels(classifier, images):
    inputs = dict(type='PackInputs')
    for scale, is_taken in ((32, True), (16, False), ((48, 31), False)):
        dataset = folders(images, LOAD, dict(type='Resize', scale=scale), inputs)
        check(classifier, [], 'train', dataset)  # ends at the first step
        if is_taken:
            check(classifier, [], 'val', dataset)
            continue
        with pytest.raises(ConfigError, match='must give images of at least 32x32 pixels, which'):
            check(classifier, [], 'val', dataset)
    with pytest.raises(ConfigError, match='^val_dataloader.* must end with PackInputs, which'):
        check(classifier, [], 'val', folders(images, LOAD, dict(type='Resize', scale=32)))


class Fragile:
    """A transform of the user's own that works in a worker only."""

    def __call__(self, results: dict) -> dict:
        raise RuntimeError('no worker')


def test_what_is_the_users_own_or_a_files_is_left_to_the_run(classifier, images):
    check(classifier, [], 'train', folders(images, LOAD, Fragile()))
    for path in (images / 'classes' / 'rose').iterdir():
        path.write_bytes(b'')
    check(classifier, [], 'train', folders(images, LOAD, dict(type='Resize', scale=32)))
    store = dict(LOAD, backend_args=dict(backend='petrel'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        from mmcv.transforms import LoadImageFromFile

        loader = LoadImageFromFile()
        loader.backend_args = store['backend_args']
    check(classifier, [], 'train', folders(images, loader))


def test_a_training_draws_the_same_numbers(detector, boxes):
    def draw() -> tuple:
        return random.random(), np.random.rand(), float(torch.rand(()))

    def seed() -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    flip = dict(type='RandomFlip', prob=0.5)
    load = annotations(with_bbox=True, with_mask=True)
    runner = make_runner(detector, [], boxes([LOAD, load, RESIZE, flip, pack()]))
    seed()
    expected = draw()
    seed()
    check_first_samples(runner, 'train')
    assert draw() == expected

"""Configs in plain Python, whose types are classes, work like configs with names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from mmsecvit import apis
from mmsecvit.apis.config import ConfigError, load_config
from mmsecvit.apis.deployment import load_network, network_inputs

COMMON = """
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.optim import AdamW

with read_base():
    from .backbone import *

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
randomness = dict(seed=0)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=True), dataset=dataset
)
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False), dataset=dataset
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])
default_hooks = dict(
    checkpoint=dict(type=CheckpointHook, interval=1, save_best=BEST),
    visualization=dict(type=VisualizationHook),
)
"""
BACKBONE = """
from mmsecvit import SecViT

backbone = dict(
    type=SecViT,
    arch=dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)),
    variant='released',
)
"""
CLASSIFIER = """
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs
from mmpretrain.engine import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier, LinearClsHead
from mmpretrain.visualization import UniversalVisualizer as Visualizer
from mmsecvit import SecViTNeck

backbone.update(out_indices=(3,))
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=2),
    backbone=backbone,
    neck=dict(type=SecViTNeck, in_channels=32, out_channels=64),
    head=dict(type=LinearClsHead, num_classes=2, in_channels=64),
)
dataset = dict(
    type=CustomDataset,
    data_root='ROOT/folders',
    pipeline=[dict(type=LoadImageFromFile), dict(type=PackInputs)],
)
val_evaluator = dict(type=Accuracy, topk=1)
BEST = 'accuracy/top1'
"""
SEGMENTER = """
from mmseg.datasets import BaseSegDataset, LoadAnnotations, PackSegInputs
from mmcv.transforms import LoadImageFromFile
from mmseg.engine import SegVisualizationHook as VisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
from mmseg.visualization import SegLocalVisualizer as Visualizer
from torch.nn import SyncBatchNorm

model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=SegDataPreProcessor, mean=[127.5] * 3, std=[127.5] * 3, size=(64, 64)
    ),
    backbone=backbone,
    decode_head=dict(
        type=FCNHead, in_channels=16, in_index=0, channels=16, num_convs=1, num_classes=2,
        norm_cfg=dict(type=SyncBatchNorm),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
dataset = dict(
    type=BaseSegDataset,
    data_root='ROOT',
    data_prefix=dict(img_path='img', seg_map_path='ann'),
    img_suffix='.png',
    metainfo=dict(classes=('dark', 'bright'), palette=[[0, 0, 0], [255, 255, 255]]),
    pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)],
)
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
BEST = 'mIoU'
"""
DETECTOR = """
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmcv.transforms import LoadImageFromFile
from mmdet.engine.hooks import DetVisualizationHook as VisualizationHook
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, DetDataPreprocessor, FocalLoss, L1Loss, RetinaHead, RetinaNet
from mmdet.visualization import DetLocalVisualizer as Visualizer

model = dict(
    type=RetinaNet,
    data_preprocessor=dict(
        type=DetDataPreprocessor, mean=[127.5] * 3, std=[127.5] * 3, pad_size_divisor=32
    ),
    backbone=backbone,
    neck=dict(type=FPN, in_channels=[16, 16, 32, 32], out_channels=16, num_outs=4),
    bbox_head=dict(
        type=RetinaHead, num_classes=2, in_channels=16, stacked_convs=1, feat_channels=16,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16, 32]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True),
        loss_bbox=dict(type=L1Loss),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=10,
    ),
)
dataset = dict(
    type=CocoDataset,
    data_root='ROOT',
    ann_file='boxes.json',
    data_prefix=dict(img='img'),
    metainfo=dict(classes=('dark', 'bright')),
    pipeline=[
        dict(type=LoadImageFromFile),
        dict(type=Resize, scale=(64, 64), keep_ratio=True),
        dict(type=LoadAnnotations, with_bbox=True),
        dict(type=PackDetInputs, meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                            'scale_factor')),
    ],
)
val_evaluator = dict(type=CocoMetric, ann_file='ROOT/boxes.json', metric='bbox')
BEST = 'coco/bbox_mAP'
"""
CONFIGS = dict(mmpretrain=CLASSIFIER, mmseg=SEGMENTER, mmdet=DETECTOR)


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    """Four images of 64x64 in the layouts of the three toolboxes."""
    root = tmp_path_factory.mktemp('data')
    images, annotations = [], []
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
        for path in (root / 'img' / f'{i}.png', root / 'folders' / 'ab'[i % 2] / f'{i}.png'):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        (root / 'ann').mkdir(exist_ok=True)
        Image.fromarray(pixels[..., 0] % 2).save(root / 'ann' / f'{i}.png')
        images.append(dict(id=i, file_name=f'{i}.png', height=64, width=64))
        box = dict(bbox=[8, 8, 24, 24], area=576, iscrowd=0)
        annotations.append(dict(box, id=i + 1, image_id=i, category_id=1 + i % 2))
    categories = [dict(id=1, name='dark'), dict(id=2, name='bright')]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'boxes.json').write_text(json.dumps(content))
    return root


@pytest.fixture(params=CONFIGS)
def config(request, root, tmp_path) -> Path:
    pytest.importorskip(request.param)
    (tmp_path / 'backbone.py').write_text(BACKBONE)
    first, rest = COMMON.split('\n\noptim_wrapper')
    text = f'{first}\n{CONFIGS[request.param]}\noptim_wrapper{rest}'
    (tmp_path / 'pure.py').write_text(text.replace('ROOT', str(root)))
    return tmp_path / 'pure.py'


def test_training_testing_and_demo_work(config, root, tmp_path):
    work_dir = tmp_path / 'work'
    options = {'custom_hooks': [dict(type='EMAHook')]}
    runner = apis.train(config, work_dir=str(work_dir), cfg_options=options)
    # What the tools need is filled in, as for names.
    hooks = {type(hook).__name__ for hook in runner.hooks}
    assert hooks >= {'AtomicCheckpointHook', 'InterruptionHook', 'StepSeedHook', 'EMAHook'}
    assert type(runner.train_loop).__name__ == 'ResumableEpochLoop'
    assert runner.cfg.default_scope in CONFIGS
    pipeline = runner.cfg.train_dataloader.dataset.pipeline
    assert pipeline[0].backend_args == dict(backend='checked_image')
    # The config that the run wrote is the same experiment.
    dumped = Config.fromfile(work_dir / 'pure.py')
    with DefaultScope.overwrite_default_scope(dumped.default_scope):
        backbone = MODELS.build(dumped.model.backbone)
    assert backbone.state_dict().keys() == runner.model.backbone.state_dict().keys()
    assert load_config(work_dir / 'pure.py').to_dict() == runner.cfg.to_dict()

    checkpoint = str(work_dir / 'epoch_1.pth')
    out = tmp_path / 'out.pkl'
    assert apis.test(config, checkpoint, str(tmp_path / 'test'), out=str(out))
    assert out.exists()
    assert not apis.infer([root / 'img' / '0.png'], config, checkpoint, tmp_path / 'demo')
    # What is exported.
    network, metadata = load_network(load_config(config), config, checkpoint)
    assert network(*network_inputs(metadata, torch.rand(1, 3, 64, 64))) is not None


def test_checks_see_classes_like_names(config, tmp_path):
    cfg = Config.fromfile(config)
    work_dir = str(tmp_path / 'work')
    with pytest.raises(ConfigError, match=r'^default_hooks.checkpoint.save_best must be a metric'):
        apis.train(config, work_dir, cfg_options={'default_hooks.checkpoint.save_best': 'x/top1'})
    options = {'train_dataloader.dataset.metainfo.classes': ('a', 'b', 'c')}
    with pytest.raises(ConfigError, match=r'head.num_classes must be the number of classes.* is 2'):
        apis.train(config, work_dir, cfg_options=options)
    endless = {'train_dataloader.sampler.type': 'InfiniteSampler'}
    with pytest.raises(ConfigError, match=r'^train_dataloader.sampler must end'):
        apis.train(config, work_dir, cfg_options=endless)
    assert cfg.to_dict() == Config.fromfile(config).to_dict()

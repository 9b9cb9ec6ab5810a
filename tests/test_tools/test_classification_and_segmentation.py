import pickle

import mmcv
import numpy as np
import pytest

from mmsecvit import engine

BACKBONE = """
    backbone=dict(
        type='SecViT',
        arch=dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)),
        variant='released',
    ),
"""
SCHEDULE = """
custom_imports = dict(imports=['mmsecvit'])
train_cfg = dict(type='IterBasedTrainLoop', max_iters=30, val_interval=30)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=3e-3))
default_hooks['checkpoint'] = dict(type='CheckpointHook', interval=30, by_epoch=False)
randomness = dict(seed=0)
val_dataloader = dict(
    batch_size=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dataset | dict(test_mode=True),
)
train_dataloader = dict(
    batch_size=8, sampler=dict(type='InfiniteSampler', shuffle=True), dataset=dataset
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
"""
CLASSIFIER = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=2),
    {backbone}
    neck=dict(type='SecViTNeck', in_channels=32, out_channels=64),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64),
)
dataset = dict(
    type='CustomDataset',
    data_root='{root}',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
)
val_evaluator = dict(type='Accuracy', topk=(1,))
default_hooks = dict(visualization=dict(type='VisualizationHook'))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
"""
SEGMENTER = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, size=(64, 64)
    ),
    {backbone}
    decode_head=dict(
        type='FCNHead', in_channels=16, in_index=0, channels=16, num_convs=1, num_classes=2
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
dataset = dict(
    type='BaseSegDataset',
    data_root='{root}',
    data_prefix=dict(img_path='img', seg_map_path='ann'),
    img_suffix='.png',
    metainfo=dict(classes=('dark', 'bright'), palette=[[0, 0, 0], [255, 255, 255]]),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ],
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
default_hooks = dict(visualization=dict(type='SegVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
"""


def write_images(root):
    """Eight pictures of dark and of bright noise, and eight with a bright right half."""
    rng = np.random.default_rng(0)
    for i in range(8):
        for name, level in (('dark', 60), ('bright', 190)):
            image = rng.normal(level, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
            mmcv.imwrite(image, f'{root}/cls/{name}/{name}_{i}.png')
        label = np.zeros((64, 64), np.uint8)
        label[:, 8 * rng.integers(2, 7) :] = 1
        image = rng.normal(60 + 130 * label[..., None], 20, (64, 64, 3)).clip(0, 255)
        mmcv.imwrite(image.astype(np.uint8), f'{root}/seg/img/{i}.png')
        mmcv.imwrite(label, f'{root}/seg/ann/{i}.png')


@pytest.mark.parametrize(
    ('task', 'toolbox', 'config', 'metric', 'least'),
    [
        ('cls', 'mmpretrain', CLASSIFIER, 'accuracy/top1', 100.0),
        ('seg', 'mmseg', SEGMENTER, 'mIoU', 90.0),
    ],
)
def test_the_same_functions_train_and_test(tmp_path, task, toolbox, config, metric, least):
    pytest.importorskip(toolbox)
    write_images(tmp_path)
    path, work_dir = tmp_path / f'{task}.py', tmp_path / 'work'
    path.write_text(config.format(root=tmp_path / task, backbone=BACKBONE) + SCHEDULE)
    engine.train(path, work_dir=str(work_dir))
    (log,) = work_dir.glob('*/*.log')
    assert log.read_text().count('trains from scratch') == (task == 'seg')

    metrics = engine.test(
        path,
        str(work_dir / 'iter_30.pth'),
        work_dir=str(tmp_path / 'test'),
        out=str(tmp_path / 'predictions.pkl'),
        show_dir=str(tmp_path / 'pictures'),
    )
    assert metrics[metric] >= least
    num_images = {'cls': 16, 'seg': 8}[task]
    assert len(pickle.loads((tmp_path / 'predictions.pkl').read_bytes())) == num_images
    pictures = [p for p in (tmp_path / 'pictures').rglob('*') if p.suffix in ('.png', '.jpg')]
    assert len(pictures) == num_images

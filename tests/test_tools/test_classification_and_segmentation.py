import json
import pickle
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmsecvit import apis

ROOT = Path(__file__).parents[2]

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
default_hooks['checkpoint'] = dict(
    type='CheckpointHook', interval=30, by_epoch=False, save_best='{metric}'
)
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
    """Write eight dark images, eight bright ones, and eight that are bright on the right only."""
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


TASKS = {
    'cls': dict(toolbox='mmpretrain', config=CLASSIFIER, metric='accuracy/top1', images='cls/dark'),
    'seg': dict(toolbox='mmseg', config=SEGMENTER, metric='mIoU', images='seg/img'),
}


@pytest.fixture(scope='module', params=TASKS)
def trained(request, tmp_path_factory):
    """A classifier of dark and bright images, and a segmenter of dark and bright parts."""
    task = TASKS[request.param]
    pytest.importorskip(task['toolbox'])
    root = tmp_path_factory.mktemp(request.param)
    write_images(root)
    config, work_dir = root / f'{request.param}.py', root / 'work'
    text = task['config'].format(root=root / request.param, backbone=BACKBONE)
    config.write_text(text + SCHEDULE.format(metric=task['metric']))
    apis.train(config, work_dir=str(work_dir))
    return SimpleNamespace(
        task=request.param,
        metric=task['metric'],
        images=root / task['images'],
        config=config,
        work_dir=work_dir,
        checkpoint=str(work_dir / 'iter_30.pth'),
    )


def test_the_same_functions_train_and_test(tmp_path, trained):
    (log,) = trained.work_dir.glob('*/*.log')
    assert log.read_text().count('trains from scratch') == (trained.task == 'seg')
    metrics = apis.test(
        trained.config,
        trained.checkpoint,
        work_dir=str(tmp_path / 'test'),
        out=str(tmp_path / 'predictions.pkl'),
        show_dir=str(tmp_path / 'pictures'),
    )
    assert metrics[trained.metric] >= {'cls': 100.0, 'seg': 90.0}[trained.task]
    num_images = {'cls': 16, 'seg': 8}[trained.task]
    assert len(pickle.loads((tmp_path / 'predictions.pkl').read_bytes())) == num_images
    pictures = [p for p in (tmp_path / 'pictures').rglob('*') if p.suffix in ('.png', '.jpg')]
    assert len(pictures) == num_images


def test_training_ends_with_the_best_checkpoint_and_the_command_that_evaluates_it(
    tmp_path, trained
):
    (log,) = trained.work_dir.glob('*/*.log')
    best = trained.work_dir / f'best_{trained.metric.replace("/", "_")}_iter_30.pth'
    *_, complete, checkpoint, logged, command = log.read_text().splitlines()
    assert complete.endswith('Training is complete.')
    path, metric = checkpoint.removeprefix('Best checkpoint: ').split(', ')
    assert Path(path).resolve() == best
    assert Path(logged.removeprefix('Log: ')).resolve() == log
    python, tool, *arguments = command.removeprefix('Evaluate it with: ').split()
    assert (python, tool) == ('python', 'tools/test.py')
    metrics = apis.test(*arguments, work_dir=str(tmp_path))
    assert metric == f'{trained.metric} {metrics[trained.metric]:.4g}'


def test_the_demo_draws_predictions_and_skips_what_is_no_image(tmp_path, trained, monkeypatch):
    broken = tmp_path / 'broken.png'
    broken.write_text('no image')
    tool, out = ROOT / 'tools' / 'demo.py', tmp_path / 'out'
    inputs = [f'{trained.images}/*_[01].png', f'{trained.images}/[01].png']
    inputs = [pattern for pattern in inputs if list(Path('/').glob(pattern[1:]))]
    arguments = [*inputs, str(broken), str(trained.config), trained.checkpoint]
    monkeypatch.setattr(sys, 'argv', [tool.name, *arguments, '--out-dir', str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tool), run_name='__main__')
    assert ended.value.code == f'Skipped what is no image: {broken}'
    names = {'cls': ['dark_0', 'dark_1'], 'seg': ['0', '1']}[trained.task]
    assert sorted(path.stem for path in (out / 'vis').iterdir()) == names
    for name in names:
        with Image.open(out / 'vis' / f'{name}.png') as picture:
            assert picture.size == (64, 64)
        prediction = json.loads((out / 'preds' / f'{name}.json').read_text())
        assert prediction['image'] == str(trained.images / f'{name}.png')
        if trained.task == 'cls':
            assert (prediction['pred_label'], prediction['pred_class']) == (1, 'dark')
            assert prediction['pred_scores'][1] == pytest.approx(prediction['pred_score'])
        else:
            assert prediction['classes'] == ['dark', 'bright']
            label = mmcv.imread(f'{trained.images}/../ann/{name}.png', 'unchanged')
            agree = coco_mask.decode(prediction['masks'][1]) == label
            assert agree.mean() > 0.9
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(tool), run_name='__main__')
    assert refused.value.code == f'out_dir must be a new or empty folder, but {out} holds files'

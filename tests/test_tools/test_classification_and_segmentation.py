import json
import pickle
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
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
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(predictions) == num_images
    if trained.task == 'seg':
        assert not {'seg_logits', 'gt_sem_seg'} & {key for p in predictions for key in p}
        assert predictions[0]['pred_sem_seg']['data'].shape == (1, 64, 64)
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
    assert ended.value.code == f'Skipped what cannot be read or predicted for:\n{broken}: no image'
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


def test_weights_alone_have_the_names_of_the_data_set(tmp_path, trained):
    weights = tmp_path / 'weights.pth'
    torch.save(torch.load(trained.checkpoint, weights_only=False)['state_dict'], weights)
    image = sorted(trained.images.iterdir())[0]
    assert apis.infer([image], trained.config, str(weights), tmp_path / 'out') == {}
    prediction = json.loads((tmp_path / 'out' / 'preds' / f'{image.stem}.json').read_text())
    # The classifier's config has no names.
    assert prediction['classes'] == {'cls': ['0', '1'], 'seg': ['dark', 'bright']}[trained.task]


def test_images_of_one_name_all_have_pictures(tmp_path, trained):
    names = {'cls': ('cls/bright', 'cls/dark'), 'seg': ('seg/img/a', 'seg/img/b')}[trained.task]
    for name in names:
        source = next(trained.images.glob('*.png'))
        for folder in (name, name.replace('img', 'ann')):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tmp_path / folder / '0.png')
        mmcv.imwrite(np.zeros((64, 64), np.uint8), str(tmp_path / folder / '0.png'))
    root = {'test_dataloader.dataset.data_root': str(tmp_path / trained.task)}
    pictures = tmp_path / 'pictures'
    apis.test(
        trained.config,
        trained.checkpoint,
        work_dir=str(tmp_path / 'test'),
        show_dir=str(pictures),
        cfg_options=root,
    )
    assert len([path for path in pictures.rglob('*') if path.suffix == '.png']) == 2
    images = [tmp_path / name for name in names]
    assert apis.infer(images, trained.config, trained.checkpoint, tmp_path / 'out') == {}
    found = (tmp_path / 'out').rglob('0.*')
    first, second = (name.rpartition('/')[2] for name in names)
    assert sorted(str(path.relative_to(tmp_path / 'out')) for path in found) == [
        f'preds/{first}/0.json',
        f'preds/{second}/0.json',
        f'vis/{first}/0.png',
        f'vis/{second}/0.png',
    ]


def test_tta_averages_over_flips(tmp_path, trained):
    arguments = (trained.config, trained.checkpoint)
    options = dict(work_dir=str(tmp_path), tta=True, out=str(tmp_path / 'p.pkl'))
    if trained.task == 'seg':
        with pytest.raises(ValueError, match='tta needs tta_model in the config'):
            apis.test(*arguments, **options)
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        packed = [[dict(type='LoadAnnotations')], flips, [dict(type='PackSegInputs')]]
        options['cfg_options'] = dict(
            tta_model=dict(type='SegTTAModel'),
            tta_pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='TestTimeAug', transforms=packed),
            ],
        )
    metrics = apis.test(*arguments, **options)
    assert metrics[trained.metric] >= {'cls': 100.0, 'seg': 90.0}[trained.task]


def test_the_demo_takes_a_segmenter_of_one_output_and_skips_a_small_image(tmp_path):
    pytest.importorskip('mmseg')
    config = tmp_path / 'config.py'
    loss = "dict(type='CrossEntropyLoss', use_sigmoid=True)"
    text = SEGMENTER.format(root=tmp_path, backbone=BACKBONE).replace(
        'num_classes=2', f'num_classes=2, out_channels=1, loss_decode={loss}'
    )
    config.write_text(text + SCHEDULE.format(metric='mIoU'))
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    rng = np.random.default_rng(0)
    mmcv.imwrite(rng.integers(0, 255, (64, 96, 3), np.uint8), str(tmp_path / 'x.png'))
    out, line = tmp_path / 'out', tmp_path / 'line.png'
    mmcv.imwrite(np.zeros((1, 96, 3), np.uint8), str(line))
    skipped = apis.infer([line, tmp_path / 'x.png'], config, str(tmp_path / 'weights.pth'), out)
    assert list(skipped) == [line]
    assert 'H and W at least 32, got torch.float32 of the shape (1, 3, 1, 96)' in skipped[line]
    prediction = json.loads((out / 'preds' / 'x.json').read_text())
    names = dict(enumerate(('dark', 'bright')))
    assert prediction['classes'] == [names[label] for label in prediction['labels']]
    masks = [coco_mask.decode(mask) for mask in prediction['masks']]
    assert (sum(masks) == 1).all()

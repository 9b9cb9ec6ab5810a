import runpy
import shutil
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

import mmsecvit
from mmsecvit import SecViT, apis
from mmsecvit.checkpoints import to_released

ROOT = Path(__file__).parents[2]
MICRO = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
CONFIG = f"""
custom_imports = dict(imports=['mmsecvit'])
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=2),
    backbone=dict(type='SecViT', arch={MICRO}, variant='released'),
    neck=dict(type='SecViTNeck', in_channels=32, out_channels=64),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64),
)
test_dataloader = val_dataloader = train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root='IMAGES',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
test_evaluator = val_evaluator = dict(type='Accuracy', topk=(1,))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=9)
test_cfg = val_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
"""
COMMANDS = {
    'train --pretrained': 'train.py CONFIG --work-dir NEW --pretrained FILE',
    'train --resume': 'train.py CONFIG --work-dir WORK --resume --cfg-options ONE_MORE',
    'train --resume, FlexibleRunner': 'train.py CONFIG --work-dir WORK --resume '
    '--cfg-options ONE_MORE runner_type=FlexibleRunner',
    'train, load_from': 'train.py CONFIG --work-dir NEW --cfg-options load_from=FILE',
    'test': 'test.py CONFIG FILE --work-dir NEW',
    'demo': 'demo.py IMAGE CONFIG FILE --out-dir NEW',
    'export a backbone': 'deployment/export.py DENSE FILE --part backbone --format torch_export '
    '--out PT2',
    'export a classifier': 'deployment/export.py CONFIG FILE --format torch_export --out PT2',
    'visualize_clusters': 'analysis/visualize_clusters.py IMAGE CONFIG FILE --out NEW.png',
}
opened: list[str] = []


@pytest.fixture(scope='module', autouse=True)
def note_opened_files():
    listening = True

    def note(event, arguments):
        if listening and event == 'open':
            opened.append(str(arguments[0]))

    sys.addaudithook(note)  # there is no way to remove one
    yield
    listening = False


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Folder of two configs, images, and the work directory of one epoch."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('trained')
    for name in ('dark', 'bright'):
        image = np.full((32, 32, 3), 200 if name == 'bright' else 50, np.uint8)
        mmcv.imwrite(image, f'{folder}/images/{name}/0.png')
    config = CONFIG.replace('IMAGES', f'{folder}/images')
    (folder / 'config.py').write_text(config)
    (folder / 'dense.py').write_text(config.replace("scope = 'mmpretrain'", "scope = 'mmdet'"))
    apis.train(folder / 'config.py', work_dir=str(folder / 'work'))
    return folder


def read_settings():
    """What a process reads checkpoints by: mmengine's loaders, and the names that torch trusts."""
    trusted = getattr(torch.serialization, 'get_safe_globals', list)()
    return dict(CheckpointLoader._schemes), set(map(str, trusted))


@pytest.mark.parametrize(
    'command',
    [
        pytest.param(command, marks=pytest.mark.slow if 'export' in command else ())
        for command in COMMANDS
    ],
)
def test_every_tool_reads_a_checkpoint_once_and_leaves_other_readers_as_they_were(
    tmp_path, monkeypatch, trained, command
):
    work_dir = tmp_path / 'work'
    shutil.copytree(trained / 'work', work_dir)
    checkpoint = work_dir / 'epoch_1.pth'
    (work_dir / 'last_checkpoint').write_text(str(checkpoint))
    values = dict(
        CONFIG=trained / 'config.py',
        DENSE=trained / 'dense.py',
        IMAGE=trained / 'images' / 'dark' / '0.png',
        WORK=work_dir,
        FILE=checkpoint,
        NEW=tmp_path / 'new',
        PT2=tmp_path / 'new.pt2',
        ONE_MORE='train_cfg.max_epochs=2',
    )
    text = COMMANDS[command]
    for name, value in values.items():
        text = text.replace(name, str(value))
    tool, *arguments = text.split()
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    opened.clear()
    before = read_settings()
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert opened.count(str(checkpoint)) == 1
    assert read_settings() == before


def test_a_converted_checkpoint_is_read_a_second_time_for_its_hash(tmp_path):
    backbone = SecViT(MICRO, 'released')
    weights = to_released(
        {f'backbone.{k}': v for k, v in backbone.state_dict().items()}, (16, 8, 16, 8)
    )
    torch.save(weights, tmp_path / 'src.pth')
    opened.clear()
    apis.convert_released(tmp_path / 'src.pth', tmp_path / 'dst.pth')
    assert opened.count(str(tmp_path / 'src.pth')) == 2


def test_get_model_reads_a_checkpoint_once(tmp_path):
    pytest.importorskip('mmpretrain')
    weights = mmsecvit.get_model('secvit_t').state_dict()
    weights = {key: torch.zeros(()).expand(value.shape) for key, value in weights.items()}
    torch.save(weights, tmp_path / 'weights.pth')
    opened.clear()
    mmsecvit.get_model('secvit_t', pretrained=tmp_path / 'weights.pth')
    assert opened.count(str(tmp_path / 'weights.pth')) == 1

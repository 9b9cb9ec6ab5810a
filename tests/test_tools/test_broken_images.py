import runpy
import shutil
import sys

import pytest
from mmengine.config import Config

from .conftest import CONFIG

TOOLS = CONFIG.parents[1] / 'tools'


@pytest.mark.parametrize('num_workers', [0, 1])
def test_training_ends_with_one_sentence_that_names_the_image(
    tmp_path, digits, digit_options, monkeypatch, num_workers
):
    scenes = tmp_path / 'scenes'
    shutil.copytree(digits, scenes)
    for path in (scenes / 'train').iterdir():
        path.write_bytes(b'')
    options = digit_options | {
        'train_dataloader.dataset.data_root': str(scenes),
        'train_dataloader.num_workers': num_workers,
        'train_dataloader.sampler.shuffle': False,
    }
    work_dir = tmp_path / 'work'
    arguments = [CONFIG, '--work-dir', work_dir, '--cfg-options']
    arguments += [f'{key}={value}' for key, value in options.items()]
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOLS / 'train.py'), run_name='__main__')
    path = scenes / 'train' / '000000.png'
    assert end.value.code == f'image file {path} must be readable, but is not: empty'
    # The log and the dumped config say what reads the images.
    setting = 'train_dataloader.dataset.pipeline.0.backend_args'
    (log,) = work_dir.glob('*/*.log')
    assert f"dict(backend='checked_image') is filled in as {setting}" in log.read_text()
    loader = Config.fromfile(work_dir / CONFIG.name).train_dataloader.dataset.pipeline[0]
    assert loader == dict(type='LoadImageFromFile', backend_args=dict(backend='checked_image'))

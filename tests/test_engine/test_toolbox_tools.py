"""mmdet's own tools/train.py makes the same run of a config as ours, and resumes it."""

import os
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config

from mmsecvit import apis
from mmsecvit.checkpoints import read_checkpoint, read_state_dict

from ..test_tools.conftest import CONFIG, digit_options, digits  # noqa: F401
from .conftest import read_losses

MMDETS_TRAIN = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
STEPS = 4


@pytest.fixture(scope='module')
def write_config(jobs, digit_options):  # noqa: F811
    """Write the demo's config as a run of four steps, with what is to end it."""

    def write(name: str, *hooks: dict) -> Path:
        cfg = Config.fromfile(CONFIG)
        options = digit_options | {'train_cfg.max_iters': STEPS, 'train_cfg.val_interval': STEPS}
        cfg.merge_from_dict(options)
        cfg.custom_imports = dict(imports=['mmsecvit', 'noise_job'])
        cfg.custom_hooks = [dict(type='LossHook'), *hooks]
        path = jobs / f'{name}.py'
        cfg.dump(path)
        return path

    return write


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory, write_config):
    """Losses and weights of the run that our own tool makes."""
    work_dir = tmp_path_factory.mktemp('ours')
    apis.train(write_config('digits'), work_dir=str(work_dir))
    return read_losses(work_dir), read_state_dict(work_dir / f'iter_{STEPS}.pth')


def train_with_mmdet(config: Path, work_dir: Path, *options: str) -> int:
    done = subprocess.run(
        [sys.executable, MMDETS_TRAIN, config, '--work-dir', work_dir, *options],
        env=os.environ | dict(CUDA_VISIBLE_DEVICES='-1'),
        capture_output=True,
        text=True,
    )
    assert 'Traceback' not in done.stderr, done.stderr[-4000:]
    return done.returncode


@pytest.mark.slow
def test_mmdets_own_tool_keeps_the_promises(tmp_path, write_config, uninterrupted):
    def killed_after(step: int, signum: int) -> Path:
        path = write_config(f'killed_{signum}', dict(type='SignalHook', signum=signum, step=step))
        cfg = Config.fromfile(path)
        cfg.default_hooks.checkpoint.interval = 2
        cfg.dump(path)
        return path

    # SIGKILL leaves the checkpoint that mmengine wrote after step 2.
    assert train_with_mmdet(killed_after(2, signum=9), tmp_path) == -9
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')
    assert read_checkpoint(tmp_path / 'iter_2.pth')['meta']['iter'] == 2
    # SIGTERM makes one of the step that it interrupts.
    assert train_with_mmdet(killed_after(2, signum=15), tmp_path, '--resume') == 143
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'interrupted.pth')
    assert read_checkpoint(tmp_path / 'interrupted.pth')['meta']['iter'] == 3
    assert not (tmp_path / f'iter_{STEPS}.pth').exists()

    assert train_with_mmdet(write_config('digits'), tmp_path, '--resume') == 0
    losses, weights = uninterrupted
    assert read_losses(tmp_path) == losses
    resumed = read_state_dict(tmp_path / f'iter_{STEPS}.pth')
    assert all(torch.equal(resumed[name], weight) for name, weight in weights.items())

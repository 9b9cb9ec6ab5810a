from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmsecvit.checkpoints import read_checkpoint

# A classifier that trains in seconds: SecViT with one block per stage, on noise. Its losses depend
# on the order of the data, on augmentation and on stochastic depth.
JOB = """
import atexit
import os
import resource
import signal
import subprocess
import time

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn

from mmsecvit import SecViT
from mmsecvit.engine.hooks import InterruptionHook


@atexit.register
def write_threads():
    names = [open(f'/proc/self/task/{t}/comm').read() for t in os.listdir('/proc/self/task')]
    with open(os.environ.get('THREADS', os.devnull), 'a') as file:
        file.writelines(names)


@DATASETS.register_module(force=True)
class Noise(torch.utils.data.Dataset):
    def __init__(self, flip=True, length=12):
        self.flip, self.length = flip, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)) + i % 3
        flipped = image.flip(2) if self.flip and np.random.rand() < 0.5 else image
        return dict(inputs=flipped, labels=i % 3)


@MODELS.register_module(force=True)
class Classifier(BaseModel):
    def __init__(self, drop_path_rate=0.5, **options):
        super().__init__()
        arch = dict(embed_dims=(16, 16, 32, 32), depths=(1,) * 4, num_heads=(1, 2, 2, 4))
        options = dict(options, drop_path_rate=drop_path_rate, out_indices=(3,))
        self.backbone = SecViT(arch, 'released', **options)
        self.fc = nn.Linear(32, 3)

    def forward(self, inputs, labels, mode='tensor'):
        logits = self.fc(self.backbone(torch.stack(list(inputs)))[0].mean((2, 3)))
        if mode == 'loss':
            return dict(loss=nn.functional.cross_entropy(logits, torch.as_tensor(labels)))
        return [dict(score=float(x.max())) for x in logits]


@METRICS.register_module(force=True)
class Score(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(acc=float(np.mean([r['score'] for r in results])))


@HOOKS.register_module(force=True)
class LossHook(Hook):
    '''Write the losses of each process into one file; mmengine starts a new log for each run.'''

    priority = 'HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(f'{runner.work_dir}/losses_{runner.rank}.txt', 'a') as file:
            print(runner.iter + 1, outputs['loss'].item(), file=file)


@HOOKS.register_module(force=True)
class SignalHook(Hook):
    '''Send a signal to this process, to its group, or by torchrun to all processes.'''

    priority = 'LOW'

    def __init__(self, signum, step, when='after_train_iter', to='process'):
        def send(runner, *args, **kwargs):
            if runner.iter != step or runner.rank:
                return
            if to == 'process':
                os.kill(os.getpid(), signum)
            elif to == 'group':
                subprocess.run(['sh', '-c', f'kill -{signum} -{os.getpgid(0)}'])
            else:
                os.kill(os.getppid(), signum)
                (hook,) = [h for h in runner.hooks if isinstance(h, InterruptionHook)]
                for _ in range(3000):
                    if not hook._asked:
                        time.sleep(0.01)  # until torchrun has passed it on

        setattr(self, when, send)


@HOOKS.register_module(force=True)
class DyingHook(Hook):
    '''Kill the second process of a job that torchrun has not restarted yet.'''

    priority = 'LOW'

    def __init__(self, step):
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        first = os.environ['TORCHELASTIC_RESTART_COUNT'] == '0'
        if runner.rank == 1 and runner.iter == self.step and first:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module(force=True)
class FullDiskHook(Hook):
    '''Allow no file of over 300,000 bytes from a checkpoint on; the attempt may end the process.'''

    def __init__(self, step, deadly=False):
        self.step = step
        self.deadly = deadly

    def before_save_checkpoint(self, runner, checkpoint):
        if runner.iter == self.step:
            hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard_limit))
            if self.deadly:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
"""
CONFIG = """
custom_imports = dict(imports=['mmsecvit', 'noise_job'])
default_scope = 'mmengine'
model = dict(type='Classifier')
loader = dict(
    batch_size=3,
    num_workers=0,
    dataset=dict(type='Noise'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
train_dataloader = val_dataloader = test_dataloader = loader
val_evaluator = test_evaluator = dict(type='Score')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-2))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=12)
default_hooks = dict(
    losses=dict(type='LossHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
)
randomness = dict(seed=0)
"""
# What tools/train.py puts in place of mmengine's defaults there.
FILLED_IN = {
    'default_hooks.checkpoint.type': 'AtomicCheckpointHook',
    'default_hooks.sampler_seed': dict(type='StepSeedHook'),
    'default_hooks.interruption': dict(type='InterruptionHook'),
    'train_cfg.type': 'ResumableEpochLoop',
}
ITERATIONS = """
_base_ = './epochs.py'
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=12, val_interval=4)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'), dataset=dict(flip=False))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3))
log_processor = dict(by_epoch=False)
"""


@pytest.fixture(scope='module')
def jobs(tmp_path_factory) -> Path:
    """Return a folder with two configs of twelve training steps: ``epochs``, ``iterations``."""
    folder = tmp_path_factory.mktemp('jobs')
    (folder / 'noise_job.py').write_text(JOB)
    (folder / 'epochs.py').write_text(CONFIG)
    (folder / 'iterations.py').write_text(ITERATIONS)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    patch.setenv('PYTHONPATH', str(folder), prepend=':')
    # Afterwards, other tests find the scope that was there before.
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield folder
    patch.undo()


def read_losses(work_dir: Path, rank: int = 0) -> dict[int, float]:
    """Return the losses of a process by step; of a repeated step, the last."""
    lines = (work_dir / f'losses_{rank}.txt').read_text().splitlines()
    return {int(step): float(loss) for step, loss in map(str.split, lines)}


def assert_dumped_config_is_the_users(work_dir: Path, config: Path, changes: dict) -> None:
    """Assert that a run wrote its config as the user has it, except for ``changes`` by key."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'work_dir': str(work_dir), **changes})
    dumped = work_dir / config.name
    assert Config.fromfile(dumped).to_dict() == cfg.to_dict()
    # Checkpoints hold the same text.
    for checkpoint in work_dir.glob('*.pth'):
        assert read_checkpoint(checkpoint)['meta']['cfg'] == dumped.read_text()

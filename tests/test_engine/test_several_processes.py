"""Two processes train as one on the joined batch, and survive the death of one of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmsecvit import apis
from mmsecvit.checkpoints import read_checkpoint, read_state_dict

from .conftest import FILLED_IN, assert_dumped_config_is_the_users, read_losses

TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
# Sums over the six images of a step have another order, in both passes of six steps. Losses and
# weights are of the size of one, or smaller.
ROUNDING = 6 * 2 * 6 * torch.finfo(torch.float32).eps
# Nothing here depends on the process that an image goes to.
STEADY = """
_base_ = './epochs.py'
model = dict(drop_path_rate=0.0, norm_eval=True)
train_dataloader = dict(dataset=dict(flip=False))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = None
"""
FSDP = """
_base_ = './steady.py'
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', use_orig_params=True),
    state_dict_cfg='full',
)
custom_hooks = [dict(type='DyingHook', step=4)]
"""
AVERAGING = """
_base_ = './steady.py'
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type='EMAHook', momentum=0.2)]
"""
DYING = """
_base_ = './epochs.py'
model = dict(norm_cfg=dict(type='SyncBN'))
train_cfg = dict(max_epochs=4)
train_dataloader = dict(batch_size=2)
default_hooks = dict(checkpoint=dict(interval=2))
custom_hooks = [dict(type='DyingHook', step=10)]
"""


WHOLE = """
_base_ = './epochs.py'
train_cfg = dict(max_epochs=8)
train_dataloader = dict(
    batch_size=2, num_workers=1, persistent_workers=True, dataset=dict(flip=False)
)
"""
# torchrun passes the signal on to both processes and all their data loaders' workers.
STOPPED = """
_base_ = './whole.py'
custom_hooks = [dict(type='SignalHook', signum=15, step=6, to='torchrun')]
"""


@pytest.fixture(scope='module', autouse=True)
def configs(jobs):
    texts = dict(steady=STEADY, fsdp=FSDP, averaging=AVERAGING, dying=DYING)
    texts |= dict(whole=WHOLE, stopped=STOPPED)
    for name, text in texts.items():
        (jobs / f'{name}.py').write_text(text)


def train_in_two_processes(config, work_dir, signalled=False):
    """Train under torchrun, which starts both processes again, once, if one dies.

    If it is ``signalled``, SIGTERM has to end it.
    """
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    done = subprocess.run(
        [*torchrun, '--nproc-per-node=2', '--max-restarts=1', TRAIN, config]
        + ['--launcher', 'pytorch', '--work-dir', work_dir, '--resume'],
        env=os.environ | dict(TORCH_DISABLE_SHARE_RDZV_TCP_STORE='1', OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == (1 if signalled else 0), done.stderr[-4000:]


def train_alone(config, work_dir, batch_size, **options):
    """Train in one process, on batches as large as those of several processes together."""
    options['train_dataloader.batch_size'] = batch_size
    apis.train(config, work_dir=str(work_dir), cfg_options=options)
    return work_dir / 'epoch_3.pth'


def assert_same_weights(first, second):
    torch.testing.assert_close(first, second, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.slow
def test_fsdp_trains_saves_and_resumes_as_one_process_trains(tmp_path, jobs):
    sharded, alone = tmp_path / 'sharded', tmp_path / 'alone'
    # One dies in the last of three epochs.
    train_in_two_processes(jobs / 'fsdp.py', sharded)
    last = train_alone(jobs / 'steady.py', alone, batch_size=6)

    losses = [read_losses(sharded, rank) for rank in range(2)]
    means = {step: (loss + losses[1][step]) / 2 for step, loss in losses[0].items()}
    assert means == pytest.approx(read_losses(alone), rel=ROUNDING)
    assert_same_weights(read_state_dict(sharded / 'epoch_3.pth'), read_state_dict(last))
    strategy = {'strategy.type': 'ResumableFSDPStrategy', 'launcher': 'pytorch'}
    imports = ['mmsecvit', 'noise_job', 'mmsecvit.engine.strategies']
    resumed = dict(resume=True, load_from=str(sharded / 'epoch_2.pth'))
    assert_dumped_config_is_the_users(
        sharded,
        jobs / 'fsdp.py',
        FILLED_IN | strategy | resumed | {'custom_imports.imports': imports},
    )
    # A test with the config of the training: testing has no use for shards.
    found, expected = (
        apis.test(config, str(checkpoint), work_dir=str(tmp_path / 'test'))
        for config, checkpoint in (
            (jobs / 'fsdp.py', sharded / 'epoch_3.pth'),
            (jobs / 'steady.py', last),
        )
    )
    assert found == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.slow
def test_averages_and_accumulated_gradients_are_those_of_one_process(tmp_path, jobs, monkeypatch):
    together = tmp_path / 'together'
    monkeypatch.setenv('THREADS', str(tmp_path / 'threads.txt'))
    train_in_two_processes(jobs / 'averaging.py', together)
    # A thread of gloo that is there at the end may abort its process.
    threads = (tmp_path / 'threads.txt').read_text()
    assert threads
    assert 'gloo' not in threads
    monkeypatch.delenv('THREADS')
    found = read_checkpoint(together / 'epoch_3.pth')
    last = train_alone(jobs / 'averaging.py', tmp_path / 'alone', batch_size=6)
    expected = read_checkpoint(last)
    assert_same_weights(found['state_dict'], expected['state_dict'])
    assert_same_weights(found['ema_state_dict'], expected['ema_state_dict'])
    # mmengine keeps the averages under `state_dict`, and the trained weights under the other name.
    trained = {
        key.removeprefix('module.'): weight
        for key, weight in found['ema_state_dict'].items()
        if key != 'steps'
    }
    # One step on 12 images is two accumulated steps on 3 images in each of two processes.
    whole = train_alone(jobs / 'steady.py', tmp_path / 'whole', batch_size=12)
    assert_same_weights(trained, read_state_dict(whole))


@pytest.mark.slow
def test_torchrun_restarts_a_job_of_which_one_process_died(tmp_path, jobs):
    train_in_two_processes(jobs / 'dying.py', tmp_path)
    for rank in range(2):
        losses = (tmp_path / f'losses_{rank}.txt').read_text().splitlines()
        steps = [int(line.split()[0]) for line in losses]
        # Killed after step 11, resumed from the checkpoint of step 6.
        assert steps == [*range(1, 12), *range(7, 13)]
        # Repeated steps have the same losses as before, bit by bit.
        assert losses[11:16] == losses[6:11]
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_4.pth')
    assert read_checkpoint(tmp_path / 'epoch_4.pth')['meta']['iter'] == 12
    resumed = dict(launcher='pytorch', resume=True, load_from=str(tmp_path / 'epoch_2.pth'))
    assert_dumped_config_is_the_users(tmp_path, jobs / 'dying.py', FILLED_IN | resumed)


@pytest.mark.slow
def test_sigterm_to_torchrun_loses_nothing(tmp_path, jobs):
    stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
    train_in_two_processes(jobs / 'stopped.py', stopped, signalled=True)
    # The signal comes after step 7; the processes agree at the end of the epoch's validation.
    assert (stopped / 'last_checkpoint').read_text() == str(stopped / 'interrupted.pth')
    assert read_checkpoint(stopped / 'interrupted.pth')['meta']['iter'] == 9
    for work_dir in (stopped, whole):
        train_in_two_processes(jobs / 'whole.py', work_dir)
    assert [read_losses(stopped, rank) for rank in range(2)] == [
        read_losses(whole, rank) for rank in range(2)
    ]

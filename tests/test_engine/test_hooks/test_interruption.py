import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmsecvit import apis
from mmsecvit.checkpoints import CheckpointError, read_checkpoint, read_state_dict
from mmsecvit.engine import InterruptionHook

from ..conftest import FILLED_IN, assert_dumped_config_is_the_users, read_losses

TRAIN = Path(__file__).parents[3] / 'tools' / 'train.py'
SIGTERM, SIGKILL, SIGXFSZ = map(int, (signal.SIGTERM, signal.SIGKILL, signal.SIGXFSZ))


@pytest.fixture(scope='module', params=['epochs', 'iterations'])
def uninterrupted(request, tmp_path_factory, jobs):
    """Return the losses and weights of a job that nothing interrupts."""
    work_dir = tmp_path_factory.mktemp(request.param)
    config = jobs / f'{request.param}.py'
    apis.train(config, work_dir=str(work_dir))
    (last,) = work_dir.glob('*.pth')
    return SimpleNamespace(
        config=config, losses=read_losses(work_dir), last=last.name, weights=read_state_dict(last)
    )


def resume_and_compare(work_dir, uninterrupted):
    """Resume, and assert that all losses and weights are those of the uninterrupted job."""
    apis.train(uninterrupted.config, work_dir=str(work_dir), resume='auto')
    assert read_losses(work_dir) == uninterrupted.losses
    weights = read_state_dict(work_dir / uninterrupted.last)
    assert all(torch.equal(weights[key], value) for key, value in uninterrupted.weights.items())


@pytest.mark.parametrize(
    ('when', 'step', 'position'),
    [
        ('after_train_iter', 5, dict(iter=6, trained_batches=2)),
        ('after_train_iter', 7, dict(iter=8, trained_batches=4)),  # an epoch's last
        ('after_val_iter', 4, dict(iter=4, trained_batches=4)),
    ],
)
def test_sigterm_loses_nothing(tmp_path, capfd, uninterrupted, when, step, position):
    hook = dict(type='SignalHook', signum=SIGTERM, step=step, when=when)
    with pytest.raises(SystemExit) as ended:
        apis.train(
            uninterrupted.config, work_dir=str(tmp_path), cfg_options={'custom_hooks': [hook]}
        )
    assert ended.value.code == 143
    assert capfd.readouterr().err.count('Got SIGTERM') == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'interrupted.pth')
    meta = read_checkpoint(tmp_path / 'interrupted.pth')['meta']
    if 'iterations' in uninterrupted.config.name:
        position = dict(iter=position['iter'])
    assert {key: meta[key] for key in position} == position
    resume_and_compare(tmp_path, uninterrupted)


@pytest.mark.parametrize(('step', 'accumulated'), [(4, 2), (5, 2), (3, 3)])  # after 3, a validation
def test_sigterm_waits_for_the_gradients_that_others_wait_for(tmp_path, jobs, step, accumulated):
    accumulate = {'optim_wrapper.accumulative_counts': accumulated}
    config, work_dirs = jobs / 'epochs.py', (tmp_path / 'stopped', tmp_path / 'whole')
    hook = dict(type='SignalHook', signum=SIGTERM, step=step)
    with pytest.raises(SystemExit):
        apis.train(
            config, work_dir=str(work_dirs[0]), cfg_options={'custom_hooks': [hook], **accumulate}
        )
    assert read_checkpoint(work_dirs[0] / 'interrupted.pth')['meta']['iter'] == 6
    apis.train(config, work_dir=str(work_dirs[0]), resume='auto', cfg_options=accumulate)
    apis.train(config, work_dir=str(work_dirs[1]), cfg_options=accumulate)
    assert read_losses(work_dirs[0]) == read_losses(work_dirs[1])


def test_sigterm_while_the_average_is_validated_leaves_the_regular_checkpoint(tmp_path, jobs):
    hooks = [
        dict(type='EMAHook'),
        dict(type='SignalHook', signum=SIGTERM, step=4, when='after_val_iter'),
    ]
    with pytest.raises(SystemExit):
        apis.train(jobs / 'epochs.py', work_dir=str(tmp_path), cfg_options={'custom_hooks': hooks})
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_1.pth']


@pytest.mark.parametrize(
    ('hook', 'exit_code', 'last'),
    [
        # Schedulers may send the signal to the data loader's workers, too.
        (
            dict(type='SignalHook', signum=SIGTERM, step=5, to='group'),
            143,
            'interrupted.pth',
        ),
        (dict(type='SignalHook', signum=SIGKILL, step=9), -SIGKILL, 'epoch_2.pth'),
        # Killed after 300,000 bytes of the second checkpoint.
        (dict(type='FullDiskHook', step=8, deadly=True), -SIGXFSZ, 'epoch_1.pth'),
    ],
    ids=['SIGTERM', 'SIGKILL', 'while saving'],
)
def test_a_run_resumes_after_its_process_was_killed(tmp_path, jobs, hook, exit_code, last):
    workers = {'train_dataloader.num_workers': 2}
    config, work_dirs = jobs / 'epochs.py', (tmp_path / 'killed', tmp_path / 'whole')
    options = [f'{key}={value}' for key, value in workers.items()]
    killed = jobs / f'killed_{last}.py'
    killed.write_text(f"_base_ = './epochs.py'\ncustom_hooks = [{hook!r}]\n")
    done = subprocess.run(
        [sys.executable, TRAIN, killed, '--work-dir', work_dirs[0], '--cfg-options', *options],
        start_new_session=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == exit_code, done.stderr[-4000:]
    found = Path((work_dirs[0] / 'last_checkpoint').read_text())
    assert found.name == last
    read_checkpoint(found)
    apis.train(config, work_dir=str(work_dirs[0]), resume='auto', cfg_options=workers)
    apis.train(config, work_dir=str(work_dirs[1]), cfg_options=workers)
    assert read_losses(work_dirs[0]) == read_losses(work_dirs[1])


@HOOKS.register_module(force=True)
class ForkingHook(Hook):
    """Ask a forked process, after the first step, what SIGTERM does to it."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 0:
            # Leaving the block terminates the process.
            with multiprocessing.get_context('fork').Pool(1) as pool:
                runner.in_child = pool.apply(signal.getsignal, (signal.SIGTERM,))
            runner.in_parent = signal.getsignal(signal.SIGTERM)


def test_sigterm_ends_forked_processes_as_usual(tmp_path, jobs):
    options = {'custom_hooks': [dict(type='ForkingHook')], 'train_cfg.max_epochs': 1}
    runner = apis.train(jobs / 'epochs.py', work_dir=str(tmp_path), cfg_options=options)
    assert runner.in_child == signal.SIG_DFL
    assert runner.in_parent != signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_ends_a_process_that_is_just_forked():
    before = signal.signal(signal.SIGTERM, InterruptionHook()._ask)
    ends = []
    try:
        for _ in range(50):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                signal.pause()
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            ends.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ends == [SIGTERM] * 50


@HOOKS.register_module(force=True)
class FailingHook(Hook):
    """Raise an error after the first step."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise RuntimeError('failed')


def test_an_error_restores_what_sigterm_did_before(tmp_path, jobs):
    def handler(signum, frame):
        pass

    before = signal.signal(signal.SIGTERM, handler)
    try:
        options = {'custom_hooks': [dict(type='FailingHook')]}
        with pytest.raises(RuntimeError, match='failed'):
            apis.train(jobs / 'epochs.py', work_dir=str(tmp_path), cfg_options=options)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_a_run_on_a_cpu_dumps_the_config_as_it_is(tmp_path, jobs):
    config = jobs / 'synchronized.py'
    config.write_text(
        "_base_ = './epochs.py'\nmodel = dict(norm_cfg=dict(type='SyncBN'))\n"
        "visualizer = dict(type='Visualizer', name='visualizer')\n"
        "env_cfg = dict(dist_cfg=dict(backend='nccl'))\n"
    )
    options = {'train_cfg.max_epochs': 1}
    apis.train(config, work_dir=str(tmp_path), cfg_options=options)
    assert_dumped_config_is_the_users(tmp_path, config, FILLED_IN | options | dict(launcher='none'))
    (log,) = tmp_path.glob('*/*.log')
    assert "default_hooks.interruption.type='InterruptionHook'" in log.read_text()


@pytest.fixture(scope='module')
def one_epoch(tmp_path_factory, jobs):
    """Return the checkpoint of a run of one epoch that drew its seed."""
    work_dir = tmp_path_factory.mktemp('one_epoch')
    options = {'train_cfg.max_epochs': 1, 'randomness.seed': None}
    apis.train(jobs / 'epochs.py', work_dir=str(work_dir), cfg_options=options)
    return work_dir / 'epoch_1.pth'


def test_the_seed_that_was_drawn_is_kept(tmp_path, jobs, one_epoch):
    options = {'train_cfg.max_epochs': 2, 'randomness.seed': None}
    runner = apis.train(
        jobs / 'epochs.py', work_dir=str(tmp_path), resume=str(one_epoch), cfg_options=options
    )
    seed = read_checkpoint(one_epoch)['meta']['seed']
    assert (runner.seed, runner.train_dataloader.sampler.seed) == (seed, seed)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'Filled in from {one_epoch}: randomness.seed={seed}.' in log


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def keep_weights(path):
    torch.save(dict(state_dict=read_state_dict(path)), path)


def keep_one_tensor(path):
    torch.save(torch.zeros(2), path)


def forget_the_meta(path):
    torch.save(read_checkpoint(path) | dict(meta=5), path)


def forget_the_position(path):
    checkpoint = read_checkpoint(path)
    del checkpoint['meta']['iter'], checkpoint['meta']['epoch']
    torch.save(checkpoint, path)


def rename_weights(path):
    checkpoint = read_checkpoint(path)
    checkpoint['state_dict']['head.bias'] = checkpoint['state_dict'].pop('fc.bias')
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (truncate, 'epoch_1.pth cannot be read: it is damaged or no checkpoint$'),
        (
            keep_weights,
            'epoch_1.pth cannot be resumed from, since it has no meta, message_hub, optimizer: '
            'give its weights to --pretrained$',
        ),
        (keep_one_tensor, 'since it has no meta, state_dict, message_hub, optimizer$'),
        (forget_the_meta, 'since it has no meta: give its weights to --pretrained$'),
        (
            forget_the_position,
            r"since it has no meta\['epoch'\], meta\['iter'\]: give its weights to --pretrained$",
        ),
        (
            rename_weights,
            r'epoch_1.pth is not of the model of .*epochs.py: 1 weights are missing in the file '
            r'\(first: fc.bias\); 1 weights of the file have no place here \(first: head.bias\)$',
        ),
    ],
)
@pytest.mark.parametrize('resume', ['auto', 'by name'])
def test_what_cannot_be_resumed_from_is_refused_and_stays(
    tmp_path, jobs, one_epoch, resume, damage, message
):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(one_epoch.read_bytes())
    (tmp_path / 'last_checkpoint').write_text(str(path))
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        apis.train(
            jobs / 'epochs.py',
            work_dir=str(tmp_path),
            resume='auto' if resume == 'auto' else str(path),
        )
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_1.pth']


def test_where_the_last_checkpoint_is_damaged_an_earlier_one_is_named(tmp_path, jobs, one_epoch):
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        (tmp_path / name).write_bytes(one_epoch.read_bytes())
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    truncate(tmp_path / 'epoch_2.pth')
    message = 'epoch_2.pth cannot be read: .*; .*epoch_1.pth is there to --resume from$'
    with pytest.raises(CheckpointError, match=message):
        apis.train(jobs / 'epochs.py', work_dir=str(tmp_path), resume='auto')


def test_a_run_without_the_hook_ends_at_once(tmp_path, jobs):
    (tmp_path / 'mine.py').write_text(f"""
_base_ = {str(jobs / 'epochs.py')!r}
default_hooks = dict(interruption=None, sampler_seed=dict(type='DistSamplerSeedHook'))
custom_hooks = [dict(type='SignalHook', signum={int(SIGTERM)}, step=1)]
""")
    done = subprocess.run(
        [sys.executable, TRAIN, tmp_path / 'mine.py', '--work-dir', tmp_path / 'work'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == -SIGTERM, done.stderr[-4000:]
    assert list(read_losses(tmp_path / 'work')) == [1, 2]
    assert not list(tmp_path.rglob('interrupted.pth'))


def test_only_strategies_resume_from_a_folder(tmp_path, jobs):
    with pytest.raises(
        CheckpointError, match=f'^resume must be a file, but {tmp_path} is a folder$'
    ):
        apis.train(jobs / 'epochs.py', work_dir=str(tmp_path / 'work'), resume=str(tmp_path))


def test_a_config_in_a_checkpoint_is_not_run(tmp_path, jobs, one_epoch):
    checkpoint = read_checkpoint(one_epoch)
    marker = tmp_path / 'marker'
    checkpoint['meta']['config'] = f"open({str(marker)!r}, 'w')"
    torch.save(checkpoint, tmp_path / 'evil.pth')
    options = {'train_cfg.max_epochs': 1}
    apis.train(
        jobs / 'epochs.py',
        work_dir=str(tmp_path / 'work'),
        resume=str(tmp_path / 'evil.pth'),
        cfg_options=options,
    )
    assert not marker.exists()

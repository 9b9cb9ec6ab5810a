import copy
import shutil
import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmsecvit import apis
from mmsecvit.checkpoints import CheckpointError, read_checkpoint

from .conftest import read_losses

BY_EPOCH = {
    'param_scheduler': dict(_delete_=True, type='CosineAnnealingLR', T_max=3, by_epoch=True)
}
CONVERTED = {'param_scheduler': dict(BY_EPOCH['param_scheduler'], convert_to_iter_based=True)}
BATCH_OF_6 = {'train_dataloader.batch_size': 6}
SIX_IMAGES = {'train_dataloader.dataset.length': 6}
UNSHUFFLED = {'train_dataloader.sampler.shuffle': False}
PROCESSES = 'the number of processes'


@HOOKS.register_module(force=True)
class ImagesHook(Hook):
    """Keep the images of each step by epoch; in 'plain' data, a pixel tells which one it is."""

    trained: dict[int, list[float]] = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        images = self.trained.setdefault(runner.epoch, [])
        images += [float(image[0, 0, 0]) for image in data_batch['inputs']]


PLAIN = {'train_dataloader.dataset.flip': False, 'custom_hooks': [dict(type='ImagesHook')]}


@pytest.fixture(scope='module')
def stopped(jobs, tmp_path_factory):
    """Return a function that gives the work directory of a run that SIGTERM stopped at a step."""
    made = {}

    def stop(config, step, options):
        key = (config, step, repr(options))
        if key not in made:
            made[key] = tmp_path_factory.mktemp('stopped')
            hook = dict(type='SignalHook', signum=int(signal.SIGTERM), step=step)
            hooks = [*options.get('custom_hooks', []), hook]
            ImagesHook.trained = {}
            with pytest.raises(SystemExit):
                apis.train(
                    jobs / f'{config}.py',
                    work_dir=str(made[key]),
                    cfg_options=copy.deepcopy({**options, 'custom_hooks': hooks}),
                )
            made[key, 'images'] = dict(ImagesHook.trained)
        ImagesHook.trained = {epoch: [*x] for epoch, x in made[key, 'images'].items()}
        return made[key]

    return stop


@pytest.fixture
def resume(jobs, tmp_path, stopped):
    """Return a function that stops a run, changes its checkpoint and resumes with other options."""

    def run(options, step=5, config='epochs', edit=None, first=PLAIN):
        folder = stopped(config, step, first)
        shutil.copytree(folder, tmp_path / 'work')
        path = tmp_path / 'work' / 'interrupted.pth'
        if edit:
            checkpoint = read_checkpoint(path)
            edit(checkpoint['meta'])
            torch.save(checkpoint, path)
        apis.train(
            jobs / f'{config}.py',
            work_dir=str(tmp_path / 'work'),
            resume=str(path),
            cfg_options=copy.deepcopy({**first, **options}),
        )
        log = max((tmp_path / 'work').glob('*/*.log'), key=lambda path: path.stat().st_mtime)
        lines = log.read_text().splitlines()
        return [line for line in lines if 'WARNING' in line and 'interrupted.pth' in line]

    return run


def processes(count):
    return lambda meta: meta['data_order'].update({PROCESSES: count})


@pytest.mark.parametrize(
    ('options', 'edit', 'changes'),
    [
        (BATCH_OF_6, None, 'train_dataloader.batch_size was 3 and is 6'),
        ({}, processes(2), 'the number of processes was 2 and is 1'),
        (
            UNSHUFFLED,
            None,
            'train_dataloader.sampler.shuffle was True and is False',
        ),
        (
            {},
            lambda meta: meta['data_order'].update(
                {'the number of images in train_dataloader.dataset': 11}
            ),
            'the number of images in train_dataloader.dataset was 11 and is 12',
        ),
    ],
)
def test_the_middle_of_an_epoch_is_refused_if_other_images_remain(resume, options, edit, changes):
    with pytest.raises(
        CheckpointError,
        match=rf'interrupted.pth is from the middle of an epoch, .* since {changes}: resume with '
        r'the same, or from the end of an epoch, or begin a new run from its weights '
        r'\(load_from=.*interrupted.pth, another work_dir\)$',
    ):
        resume(options, step=4, edit=edit)


def test_the_same_batch_of_another_number_of_processes_goes_on(resume):
    def three_processes(meta):
        meta['data_order'].update({'train_dataloader.batch_size': 1, PROCESSES: 3})

    assert resume({}, edit=three_processes) == []
    assert [len(set(images)) for images in ImagesHook.trained.values()] == [12, 12, 12]


def test_checkpoints_of_earlier_versions_go_on(resume):
    assert resume({}, edit=lambda meta: meta.pop('data_order')) == []
    assert [len(set(images)) for images in ImagesHook.trained.values()] == [12, 12, 12]


@pytest.mark.parametrize('step', [3, 7])
def test_another_batch_goes_on_at_the_end_of_an_epoch(resume, step):
    warnings = resume(BATCH_OF_6, step=step, first={**PLAIN, **BY_EPOCH})
    assert len(warnings) == 1
    assert warnings[0].endswith(': train_dataloader.batch_size was 3 and is 6.')
    assert {epoch: len(x) for epoch, x in ImagesHook.trained.items()} == {0: 12, 1: 12, 2: 12}
    assert all(len(set(images)) == 12 for images in ImagesHook.trained.values())


@pytest.mark.parametrize(
    ('options', 'change'),
    [
        (SIX_IMAGES, 'the number of images in train_dataloader.dataset was 12 and is 6'),
        (UNSHUFFLED, 'train_dataloader.sampler.shuffle was True and is False'),
    ],
)
def test_other_images_are_said_at_the_end_of_an_epoch(resume, options, change):
    (warning,) = resume(options, step=7, first={**PLAIN, **BY_EPOCH})
    assert warning.endswith(f'interrupted.pth: {change}.')


@pytest.mark.parametrize('options', [BATCH_OF_6, SIX_IMAGES])
def test_an_epoch_of_another_length_is_refused_if_a_schedule_counts_iterations(resume, options):
    with pytest.raises(
        CheckpointError,
        match=r'has a schedule that counts iterations \(param_scheduler.0: .*T_max=12 then, 6 now.*'
        r'resume with as many images and the same product of train_dataloader.batch_size and',
    ):
        resume(options, step=7, first={**PLAIN, **CONVERTED})


def test_iterations_go_on_with_another_batch(resume):
    warnings = resume(BATCH_OF_6, config='iterations', first={})
    assert [line.rpartition(': ')[2] for line in warnings] == [
        'train_dataloader.batch_size was 3 and is 6.'
    ]


@pytest.mark.parametrize(
    ('options', 'setting', 'difference'),
    [
        (
            {'param_scheduler.T_max': 6, 'train_cfg.max_epochs': 6},
            'param_scheduler.0',
            'T_max=3 then, 6 now',
        ),
        (
            {'param_scheduler': dict(_delete_=True, type='MultiStepLR', milestones=[2])},
            'param_scheduler.0',
            'a schedule of another type than MultiStepLR',
        ),
        (
            {
                'param_scheduler': [
                    dict(type='CosineAnnealingLR', T_max=3),
                    dict(type='ConstantLR', end=1),
                ]
            },
            'param_scheduler',
            '1 schedules then, 2 now',
        ),
        (
            {'optim_wrapper.optimizer.lr': 1e-3, 'optim_wrapper.optimizer.weight_decay': 0.1},
            'optim_wrapper.optimizer',
            'lr=0.01 then, 0.001 now, weight_decay=0.01 then, 0.1 now',
        ),
    ],
)
def test_what_the_checkpoint_decides_and_not_the_config_is_said(
    resume, options, setting, difference
):
    warnings = resume(options, step=7, first={**PLAIN, **BY_EPOCH})
    assert len(warnings) == 1
    assert f'The config has another {setting} than checkpoint ' in warnings[0]
    assert difference in warnings[0]
    assert "For the config's, begin a new run from its weights (load_from=" in warnings[0]


def test_the_same_config_goes_on_without_a_word(resume, tmp_path):
    first = {**PLAIN, **CONVERTED, 'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.0)}
    assert resume({}, step=7, first=first) == []
    assert len(read_losses(tmp_path / 'work')) == 12

import pytest
from mmengine.config import Config

from mmsecvit.apis.config import ConfigError
from mmsecvit.apis.schedules import check_iterations, check_schedules

COSINE, POLY, STEPS = 'CosineAnnealingLR', 'PolyLR', 'MultiStepLR'


def check(by_epoch: bool, length: int, schedule: dict) -> list[str]:
    kind = 'ResumableEpochLoop' if by_epoch else 'IterBasedTrainLoop'
    train_cfg = {'type': kind, 'max_epochs' if by_epoch else 'max_iters': length}
    return [*check_schedules(Config(dict(train_cfg=train_cfg, param_scheduler=[schedule])))]


@pytest.mark.parametrize(
    ('by_epoch', 'length', 'schedule', 'option', 'end'),
    [
        (True, 2, dict(type=COSINE, T_max=2, by_epoch=False), 'by_epoch', 'now they are iter'),
        (True, 12, dict(type=STEPS, milestones=[8, 11], by_epoch=False), 'by_epoch', 'now they'),
        (True, 12, dict(type=POLY, end=12, by_epoch=False), 'by_epoch', 'now they are iterations.'),
        (False, 6, dict(type='LinearLR', by_epoch=False, end=1000), 'end', 'does not end.'),
        (True, 2, dict(type='LinearLR', end=5, convert_to_iter_based=True), 'end', 'does not end.'),
        (True, 2, dict(type=COSINE, begin=5, T_max=2, end=7), 'begin', 'has no effect.'),
        (True, 2, dict(type=STEPS, milestones=[8, 11]), 'milestones', 'has no effect.'),
        (False, 2, dict(type=POLY, end=160000, by_epoch=False), 'end', 'is cut off.'),
        (True, 20, dict(type=COSINE, T_max=280, begin=5), 'T_max', 'CosineAnnealingLR is cut off.'),
        (True, 2, dict(type=COSINE, T_max=20), 'T_max', 'CosineAnnealingLR is cut off.'),
        (True, 12, dict(type=COSINE, T_max=6), 'T_max', 'CosineAnnealingLR rises again.'),
    ],
)
def test_schedules_that_do_not_fit_the_run_are_said(by_epoch, length, schedule, option, end):
    (warning,) = check(by_epoch, length, schedule)
    assert warning.startswith(f'param_scheduler.0.{option} should be')
    assert end in warning


@pytest.mark.parametrize(
    ('by_epoch', 'length', 'schedule'),
    [
        (True, 300, dict(type=COSINE, T_max=280, begin=20, end=300)),
        (True, 300, dict(type=COSINE, begin=20)),
        (True, 300, dict(type=COSINE, T_max=295, begin=0)),
        (True, 300, dict(type=COSINE, T_max=150, begin=150, end=300)),
        (True, 300, dict(type=COSINE, T_max=140, begin=10, end=150)),
        (True, 1, dict(type=COSINE, T_max=1, convert_to_iter_based=True)),
        (True, 12, dict(type='LinearLR', by_epoch=False, end=500)),
        (True, 12, dict(type='LinearLR', by_epoch=False, end=12)),
        (True, 12, dict(type=COSINE, by_epoch=False, T_max=90000)),
        (True, 12, dict(type=STEPS, milestones=[8, 12])),
        (True, 3, dict(type=STEPS, milestones=[1, 2], end=12)),
        (False, 80000, dict(type=POLY, end=80000, begin=1500, by_epoch=False)),
        (False, 80000, dict(type=STEPS, milestones=[8, 12])),  # said elsewhere
    ],
)
def test_schedules_that_fit_are_left_alone(by_epoch, length, schedule):
    assert check(by_epoch, length, schedule) == []


def test_a_warmup_in_iterations_is_compared_once_their_number_is_known():
    warmup = dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500)
    steps = dict(type=STEPS, milestones=[8, 11])
    cfg = Config(dict(train_cfg=dict(max_epochs=12), param_scheduler=[warmup, steps]))
    assert [*check_iterations(cfg, 500)] == []
    (warning,) = check_iterations(cfg, 96)
    assert warning == (
        'param_scheduler.0.end should be at most the iterations of the run, 96, got 500: the '
        'warmup does not end.'
    )


def test_a_schedule_that_ends_before_it_begins_is_refused():
    message = 'param_scheduler.0.end must be above its begin, 5, got 3'
    with pytest.raises(ConfigError, match=message):
        check(True, 3, dict(type=COSINE, begin=5, end=3))

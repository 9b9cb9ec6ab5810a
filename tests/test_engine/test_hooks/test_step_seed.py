import random
from types import SimpleNamespace

import numpy as np
import torch

from mmsecvit.engine import StepSeedHook


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_numbers_depend_on_seed_and_step_only():
    hook = StepSeedHook()
    drawn = {}
    for seed in (0, 1):
        for step in (0, 1, 1000):
            runner = SimpleNamespace(seed=seed, iter=step)
            hook.before_train_iter(runner, batch_idx=0)
            drawn[seed, step, 'step'] = draw()
            # For the data of the next step: as at the start of a run that resumes there.
            hook.after_train_iter(runner, batch_idx=0)
            drawn[seed, step + 1, 'data'] = draw()
            runner.iter = step + 1
            for seed_data in (hook.after_skipped_iter, hook.after_val_epoch):
                draw()
                seed_data(runner)
                assert draw() == drawn[seed, step + 1, 'data']
            runner.iter = step
            draw()
            hook.before_train_iter(runner, batch_idx=7)
            assert draw() == drawn[seed, step, 'step']
    # Three generators each; no two draws are equal.
    assert len({number for numbers in drawn.values() for number in numbers}) == 3 * len(drawn)


def test_samplers_are_seeded_as_by_mmengines_hook():
    epochs = []
    sampler = SimpleNamespace(set_epoch=epochs.append)
    loader = SimpleNamespace(sampler=sampler)
    runner = SimpleNamespace(
        seed=0, iter=30, epoch=3, train_loop=SimpleNamespace(dataloader=loader)
    )
    StepSeedHook().before_train_epoch(runner)
    assert epochs == [3]

"""Random numbers that depend on the seed and the step alone."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

DATA, STEP = 0, 1  # what random numbers of a training step are for


class StepSeedHook(Hook):
    """Derive each training step's random numbers from the seed and the step's number alone.

    So a resumed run draws what the uninterrupted one would have, in the process that trains;
    the data loader's workers have random numbers of their own.
    """

    priority = 'LOWEST'

    def before_train_epoch(self, runner: Runner) -> None:
        seed_step(runner, runner.iter, DATA)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        seed_step(runner, runner.iter, STEP)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        # Without workers, the next batch is drawn here.
        seed_step(runner, runner.iter + 1, DATA)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        seed_step(runner, runner.iter, DATA)


def seed_step(runner: Runner, step: int, what: int) -> None:
    """Seed this process for training step ``step``: for loading its data, or the step itself."""
    sequence = np.random.SeedSequence((runner.seed, get_rank(), step, what))
    seed = int(sequence.generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

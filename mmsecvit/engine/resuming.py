"""Tell whether a checkpoint and a run agree on what a step trains and on how fast it learns."""

import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader

from ..checkpoints import CheckpointError
from .hooks.checkpoint import find_last_checkpoint

BATCH_SIZE, PROCESSES = 'train_dataloader.batch_size', 'the number of processes'
IMAGES = 'the number of images in train_dataloader.dataset'


def describe_data_order(loader: DataLoader) -> dict[str, int | str]:
    """Return what decides which images a step trains, by setting. Checkpoints keep it."""
    batches = loader.batch_sampler
    return {
        BATCH_SIZE: getattr(batches, 'batch_size', None) or loader.batch_size or 1,
        PROCESSES: get_world_size(),
        IMAGES: len(loader.dataset) if hasattr(loader.dataset, '__len__') else 0,
        'train_dataloader.sampler.type': type(loader.sampler).__name__,
        'train_dataloader.sampler.shuffle': bool(getattr(loader.sampler, 'shuffle', False)),
        'train_dataloader.batch_sampler.type': type(batches).__name__,
    }


def check_resumed(runner: Runner, checkpoint: dict) -> None:
    """Raise a CheckpointError if a run cannot go on where a checkpoint stopped.

    mmengine takes schedules and the optimizer's options from the checkpoint. Where the config has
    others, the log says so.

    Args:
        runner: The runner, whose loop, optimizer and schedules are built.
        checkpoint: What it resumes from. If it was saved at the end of an epoch,
            ``meta['trained_batches']`` becomes the length that the epoch has now.

    Raises:
        CheckpointError: If images of an interrupted epoch would be left out, or the learning rate
            would come to its end earlier or later than the training.
    """
    loop, meta = runner._train_loop, checkpoint['meta']
    path = runner._load_from or find_last_checkpoint(runner.work_dir)
    source = f'checkpoint {path}'
    new_run = f'a new run from its weights (load_from={path}, another work_dir)'
    now = describe_data_order(loop.dataloader)
    before = meta.get('data_order', now)  # earlier versions kept none
    changed = [key for key in now if key in before and now[key] != before[key]]
    same_batch = _total_batch(now) == _total_batch(before)
    if same_batch and now['train_dataloader.batch_sampler.type'] == BatchSampler.__name__:
        # The processes share out the images of a step, whatever their number.
        changed = [key for key in changed if key not in (BATCH_SIZE, PROCESSES)]
    changes = ', '.join(f'{key} was {before[key]} and is {now[key]}' for key in changed)
    in_epochs = isinstance(loop, EpochBasedTrainLoop)
    trained = meta.get('trained_batches', 0) * _total_batch(before) if in_epochs else 0
    if changed and 0 < trained < before[IMAGES]:
        raise CheckpointError(
            f'{source} is from the middle of an epoch, and images of its rest would be left out, '
            f'since {changes}: resume with the same, or from the end of an epoch, '
            f'or begin {new_run}'
        )
    if changed and trained:
        meta['trained_batches'] = len(loop.dataloader)
    schedules = [*_compare_schedules(runner, checkpoint)]
    if in_epochs and (not same_batch or IMAGES in changed):
        for setting, difference, counts_iterations in schedules:
            if counts_iterations:
                raise CheckpointError(
                    f'{source} has a schedule that counts iterations ({setting}: {difference}), '
                    f'and an epoch has another number of them now, since {changes}: resume with '
                    f'as many images and the same product of {BATCH_SIZE} and processes, or begin '
                    f'{new_run}'
                )
    ignored = {setting: difference for setting, difference, _ in schedules}
    for setting, difference in {**ignored, **_compare_optimizers(runner, checkpoint)}.items():
        runner.logger.warning(
            f'The config has another {setting} than {source}, which resuming takes: {difference}. '
            f"For the config's, begin {new_run}."
        )
    if changed:
        runner.logger.warning(f'The batches are not those of {source}: {changes}.')


def _total_batch(order: dict) -> int:
    return order[BATCH_SIZE] * order[PROCESSES]


def _compare_schedules(runner: Runner, checkpoint: dict) -> Iterator[tuple[str, str, bool]]:
    """Compare the schedules of a config with a checkpoint's.

    Yields:
        The setting, the difference, and whether the checkpoint's schedule counts iterations and has
        not ended.
    """
    built, saved = runner.param_schedulers, checkpoint.get('param_schedulers')
    if not built or not saved:
        return
    if not isinstance(built, dict):  # of several optimizers
        built, saved = {'': built}, {'': saved}
    for name, schedulers in built.items():
        setting = f'param_scheduler.{name}'.rstrip('.')
        states = saved.get(name, [])
        if len(schedulers) != len(states):
            yield setting, f'{len(states)} schedules then, {len(schedulers)} now', False
        for i, (scheduler, state) in enumerate(zip(schedulers, states, strict=False)):
            now = {key: getattr(scheduler, key) for key in _arguments(scheduler)}
            difference = _differences(state, now)
            if state.keys() - vars(scheduler).keys():
                difference = f'a schedule of another type than {type(scheduler).__name__}'
            if difference:
                goes_on = not state['by_epoch'] and state['_global_step'] < state['end']
                yield f'{setting}.{i}', difference, goes_on


def _arguments(scheduler: _ParamScheduler) -> set[str]:
    """Return the arguments of a schedule that it keeps as attributes, except its progress."""
    constructors = [vars(cls).get('__init__') for cls in type(scheduler).__mro__[:-1]]
    names = {n for init in constructors if init for n in inspect.signature(init).parameters}
    return (names & vars(scheduler).keys()) - {'optimizer', 'last_step', 'verbose'}


def _compare_optimizers(runner: Runner, checkpoint: dict) -> dict[str, str]:
    """Return what differs between the options of a config's optimizer and a checkpoint's."""
    if not isinstance(runner.optim_wrapper, OptimWrapper):
        return {}
    groups = checkpoint.get('optimizer', {}).get('param_groups', [])
    for now, before in zip(runner.optim_wrapper.param_groups, groups, strict=False):
        # Schedules change an option, and keep what it was at first.
        options = [o for o in ('lr', 'weight_decay', 'momentum', 'betas') if o in now]
        initial = {o: now.get(f'initial_{o}', now[o]) for o in options}
        difference = _differences(
            {o: before.get(f'initial_{o}', before.get(o)) for o in options}, initial
        )
        if difference:
            return {'optim_wrapper.optimizer': difference}
    return {}


def _differences(before: dict, now: dict[str, Any]) -> str:
    """Describe the values of ``now`` that ``before`` has otherwise."""
    values = {key: (_plain(before[key]), _plain(now[key])) for key in now if key in before}
    return ', '.join(f'{k}={was} then, {new} now' for k, (was, new) in values.items() if was != new)


def _plain(value: Any) -> Any:
    """Return a value as configs have it."""
    return sorted(value.elements()) if isinstance(value, Counter) else value

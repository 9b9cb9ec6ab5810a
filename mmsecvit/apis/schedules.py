"""Compare schedules of the learning rate and of other values with the length of a run."""

from collections.abc import Iterator
from math import inf
from typing import Any

from mmengine.config import Config, ConfigDict

from ..datasets import type_name
from .best_metric import find_schedulers
from .config import ConfigError

# Loops that count epochs.
EPOCH_LOOPS = ('EpochBasedTrainLoop', 'ResumableEpochLoop')
# Where each kind of schedule says how long its way down is.
SPANS = dict(CosineAnnealing=('T_max', 'end'), Poly=('end',), MultiStep=('milestones',))


def check_schedules(cfg: Config) -> Iterator[str]:
    """Find schedules that do not fit the length of the run.

    What counts iterations in a training that counts epochs is compared only with the number of
    epochs, since the data are not loaded yet.

    Yields:
        Sentences for the log.

    Raises:
        ConfigError: If a schedule ends before it begins.
    """
    for name, scheduler in find_schedulers(cfg):
        begin, end = scheduler.get('begin', 0), scheduler.get('end', inf)
        if _are_numbers(begin, end) and begin >= end:
            raise ConfigError(f'{name}.end must be above its begin, {begin}, got {end}')
    train_cfg = cfg.get('train_cfg') or {}
    kind = type_name(train_cfg)
    if kind in EPOCH_LOOPS or train_cfg.get('by_epoch') is True:
        limit, by_epoch = 'max_epochs', True
    elif kind == 'IterBasedTrainLoop' or train_cfg.get('by_epoch') is False:
        limit, by_epoch = 'max_iters', False
    else:
        return
    length = train_cfg.get(limit)
    if not isinstance(length, int):
        return
    for name, scheduler in find_schedulers(cfg):
        if bool(scheduler.get('by_epoch', True)) == by_epoch:
            yield from _compare(name, scheduler, length, f'train_cfg.{limit}, {length}')
        elif by_epoch:
            yield from _compare_units(name, scheduler, length)


def check_iterations(cfg: Config, iterations: int) -> Iterator[str]:
    """Find schedules that count iterations, and do not fit their number in the run.

    Args:
        cfg: Config of a training in epochs.
        iterations: Number of iterations of all epochs, which is known once the data are loaded.

    Yields:
        Sentences for the log.
    """
    for name, scheduler in find_schedulers(cfg):
        if not scheduler.get('by_epoch', True):
            yield from _compare(
                name, scheduler, iterations, f'the iterations of the run, {iterations}'
            )


def _compare(name: str, scheduler: ConfigDict, length: int, limit: str) -> Iterator[str]:
    """Compare a schedule with the length of the run, which counts the same."""
    kind = type_name(scheduler)
    begin = scheduler.get('begin', 0)
    end = scheduler.get('end', length)  # mmengine's default
    if not _are_numbers(begin, end):
        return
    milestones = scheduler.get('milestones') if kind.startswith('MultiStep') else None
    T_max: Any = scheduler.get('T_max') if kind.startswith('CosineAnnealing') else None
    if begin >= length:
        yield f'{name}.begin should be below {limit}, got {begin}: {kind} has no effect.'
    elif milestones and _are_numbers(*milestones) and begin + min(milestones) >= length:
        yield f'{name}.milestones should be below {limit}, got {milestones}: {kind} has no effect.'
    elif end > length and _warms_up(scheduler):
        yield f'{name}.end should be at most {limit}, got {end}: the warmup does not end.'
    elif _are_numbers(T_max):
        way = min(end, length) - begin
        if T_max >= 1.5 * way:
            yield (
                f'{name}.T_max should be the length of its way to the end of training, {way}, got '
                f'{T_max}: {kind} is cut off.'
            )
        # Some stop the cosine slightly early.
        elif way - T_max > max(1, T_max / 10):
            yield (
                f'{name}.T_max should be the length of its way to the end of training, {way}, got '
                f'{T_max}: {kind} rises again.'
            )
    elif kind.startswith(('CosineAnnealing', 'Poly')) and end - begin >= 1.5 * (length - begin):
        yield f'{name}.end should be about {limit}, got {end}: {kind} is cut off.'


def _warms_up(scheduler: ConfigDict) -> bool:
    """Return whether a schedule raises a value to its full size."""
    kind = type_name(scheduler)
    if kind.startswith('Linear'):
        first, last = scheduler.get('start_factor', 1 / 3), scheduler.get('end_factor', 1.0)
    elif kind.startswith('Constant'):
        first, last = scheduler.get('factor', 1 / 3), 1.0
    else:
        return False
    return _are_numbers(first, last) and first < last


def _compare_units(name: str, scheduler: ConfigDict, epochs: int) -> Iterator[str]:
    """Find a schedule that counts iterations with the number of a training's epochs."""
    options = SPANS.get(next(filter(type_name(scheduler).startswith, SPANS), ''), ())
    option = next((option for option in options if scheduler.get(option)), None)
    value: Any = scheduler[option] if option else None
    last: Any = max(value) if isinstance(value, (list, tuple)) else value
    if _are_numbers(last) and last <= epochs:
        yield (
            f'{name}.by_epoch should be True if {option}={value} are epochs of '
            f'train_cfg.max_epochs, {epochs}: now they are iterations.'
        )


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)

"""Stopping a training run at a signal, and going on with it as if nothing had happened."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..loops import ResumableEpochLoop
from .checkpoint import ATOMIC, LAST_CHECKPOINT, AtomicBackend

INTERRUPTED = 'interrupted.pth'
ASKING_INTERVAL = 5  # iterations from one question among processes to the next
EXIT_CODE = 128 + signal.SIGTERM  # as shells have it


class InterruptionHook(Hook):
    """Save and exit when SIGTERM comes, as schedulers send it some time before they kill.

    The step in hand is finished first, and those with whose gradients its own are accumulated.
    Several processes agree every five training steps, and when a validation ends.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._asked = False
        self._agreed = False
        self._started = False
        self._updated = True  # no gradients wait for others
        # Where the run stands; None while the model holds something else.
        self._position: dict | None = None
        self._trained: dict | None = None

    @contextmanager
    def listening(self, runner: Runner) -> Iterator[None]:
        """Listen to SIGTERM inside the ``with`` block, in which the runner trains.

        Workers of its data loaders outlive a signal that reaches every process of the job, where
        they are forked, as Linux does.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # no other can be told of signals
            return
        _protect_workers(runner)
        previous = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what of an epoch was trained already."""
        if runner.cfg.get('resume') and isinstance(runner.train_loop, ResumableEpochLoop):
            runner.train_loop.trained_batches = checkpoint['meta'].get('trained_batches', 0)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        self._started = True

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        self._position = self._trained = dict(
            epoch=runner.epoch, iter=runner.iter + 1, trained_batches=batch_idx + 1
        )
        interval = 1 if get_world_size() == 1 else ASKING_INTERVAL
        if self.every_n_train_iters(runner, interval):
            self._agreed |= self._anyone_asked()
        accumulated = runner.cfg.optim_wrapper.get('accumulative_counts', 1)
        self._updated = self.every_n_train_iters(runner, accumulated)
        self._exit_if_agreed(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            self._position = None  # the average is in the model's place

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        # Processes may have different numbers of images to validate, and cannot agree here.
        if get_world_size() == 1:
            self._agreed |= self._asked
            self._exit_if_agreed(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._position = self._trained
        self._agreed |= self._anyone_asked()
        self._exit_if_agreed(runner)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if not self._started:
            raise SystemExit(EXIT_CODE)
        self._asked = True

    def _anyone_asked(self) -> bool:
        asked = torch.tensor(int(self._asked))
        all_reduce(asked, 'max')
        return bool(asked)

    def _exit_if_agreed(self, runner: Runner) -> None:
        # Gradients that wait for others are in no checkpoint.
        if not self._agreed or not self._updated:
            return
        if self._position is None:
            said = 'Stopped by SIGTERM; go on from the last checkpoint with --resume.'
        else:
            said = f'Stopped by SIGTERM and saved {self._save(runner)}; go on with --resume.'
        runner.logger.info(said)
        _end_workers()
        raise SystemExit(EXIT_CODE)

    def _save(self, runner: Runner) -> Path:
        path = Path(runner.work_dir, INTERRUPTED)
        runner.save_checkpoint(
            runner.work_dir, path.name, meta=self._position, by_epoch=False, backend_args=ATOMIC
        )
        if get_rank() == 0:
            AtomicBackend().put(str(path).encode(), path.with_name(LAST_CHECKPOINT))
        return path


def _protect_workers(runner: Runner) -> None:
    """Let workers of a runner's data loaders end at their parent's SIGTERM alone.

    Without its workers, a process would keep the others waiting in the step in hand.
    """
    build = runner.build_dataloader

    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        loader = build(*args, **kwargs)
        loader.worker_init_fn = partial(_begin_worker, loader.worker_init_fn)
        return loader

    runner.build_dataloader = build_dataloader


def _begin_worker(initialize: Callable[[int], None] | None, worker_id: int) -> None:
    if initialize is not None:
        initialize(worker_id)
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(parent,), daemon=True).start()


def _obey(parent: BaseProcess) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid and parent.is_alive():
        pass
    os._exit(0)


def _end_workers() -> None:
    """End the workers of data loaders, which may be in the middle of something."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise an error
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)

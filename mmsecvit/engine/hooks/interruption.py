"""Save and exit at SIGTERM, and resume in the middle of an epoch."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ...compat import kill_children, restart_workers
from ..loops import ResumableEpochLoop
from ..resuming import check_resumed, describe_data_order
from .checkpoint import ATOMIC, LAST_CHECKPOINT, AtomicBackend

INTERRUPTED = 'interrupted.pth'
ASKING_INTERVAL = 5  # iterations between two exchanges among processes about SIGTERM
EXIT_CODE = 128 + signal.SIGTERM  # as shells report it


@HOOKS.register_module()
class InterruptionHook(Hook):
    """Save a checkpoint and exit at SIGTERM, which schedulers send some time before they kill.

    The run first finishes the current step, and the steps whose gradients are accumulated with it.
    Several processes agree every five training steps, and at the end of a validation. Data loaders'
    workers survive a SIGTERM that reaches every process of the job, where they are forked (Linux).

    ``ResumableEpochLoop`` resumes from the saved checkpoint in the middle of the epoch.

    Example:
        >>> default_hooks = dict(interruption=dict(type='InterruptionHook'))
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._asked = False
        self._agreed = False
        self._started = False
        self._updated = True  # no accumulated gradients are pending
        # The position of the weights in the model; None while these are an average.
        self._position: dict | None = None
        self._trained: dict | None = None

    def before_run(self, runner: Runner) -> None:
        """Handle SIGTERM while the training loop runs."""
        loop = runner._train_loop  # runner.train_loop would build one for a test, too
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not isinstance(loop, BaseLoop) or not in_main_thread:
            return  # Python handles signals in the main thread only
        for part in (loop, runner.val_loop):
            if part is not None and isinstance(part.dataloader, DataLoader):
                _protect_workers(part.dataloader)
        if isinstance(loop, IterBasedTrainLoop):
            restart_workers(loop)
        # mmengine calls no hook when an error ends a run, so the loop itself restores the handler.
        loop.run = partial(self._run, loop.run)

    def _run(self, run: Callable[[], nn.Module]) -> nn.Module:
        previous = signal.signal(signal.SIGTERM, self._ask)
        try:
            return run()
        finally:
            signal.signal(signal.SIGTERM, previous)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what decides which images a step trains."""
        loop = runner._train_loop
        if isinstance(loop, BaseLoop) and isinstance(loop.dataloader, DataLoader):
            checkpoint['meta']['data_order'] = describe_data_order(loop.dataloader)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that a run can go on, and tell the loop how much of the epoch was trained."""
        loop = runner._train_loop
        if not runner.cfg.get('resume') or not isinstance(loop, BaseLoop):
            return
        if isinstance(loop.dataloader, DataLoader):
            check_resumed(runner, checkpoint)
        if isinstance(loop, ResumableEpochLoop):
            loop.trained_batches = checkpoint['meta'].get('trained_batches', 0)

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
        optim_wrapper = runner.cfg.get('optim_wrapper') or {}
        accumulated = optim_wrapper.get('accumulative_counts', 1)
        self._updated = self.every_n_train_iters(runner, accumulated)
        self._exit_if_agreed(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            self._position = None  # the model holds the average during validation

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        # Several processes cannot agree here: they may have different numbers of images.
        if get_world_size() == 1:
            self._agreed |= self._asked
            self._exit_if_agreed(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._position = self._trained
        self._agreed |= self._anyone_asked()
        self._exit_if_agreed(runner)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self._started and not self._asked:
            # Loggers and sys.stderr may be writing when the signal comes, and are not reentrant.
            with suppress(OSError):
                os.write(2, b'Got SIGTERM: the run stops as soon as it can be resumed.\n')
        self._asked = True
        if not self._started:  # an exception would be lost where a process is being forked
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    def _anyone_asked(self) -> bool:
        asked = torch.tensor(int(self._asked))
        all_reduce(asked, 'max')
        return bool(asked)

    def _exit_if_agreed(self, runner: Runner) -> None:
        # No checkpoint holds accumulated gradients.
        if not self._agreed or not self._updated:
            return
        if self._position is None:
            message = 'Stopped by SIGTERM; resume from the last checkpoint with --resume.'
        else:
            message = f'Stopped by SIGTERM and saved {self._save(runner)}; resume with --resume.'
        runner.logger.info(message)
        kill_children()
        raise SystemExit(EXIT_CODE)

    def _save(self, runner: Runner) -> Path:
        path = Path(runner.work_dir, INTERRUPTED)
        runner.save_checkpoint(
            runner.work_dir, path.name, meta=self._position, by_epoch=False, backend_args=ATOMIC
        )
        if get_rank() == 0:
            AtomicBackend().put(str(path).encode(), path.with_name(LAST_CHECKPOINT))
        return path


_forking = threading.local()


def _hold_sigterm() -> None:
    """Hold SIGTERM back while this thread forks, if an :class:`InterruptionHook` handles it."""
    handler = signal.getsignal(signal.SIGTERM)
    is_ours = isinstance(getattr(handler, '__self__', None), InterruptionHook)
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if is_ours else None


def _release_sigterm() -> None:
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _restore_default_in_child() -> None:
    """Let SIGTERM end a forked process: with our handler, ``Pool.terminate`` would wait forever.

    Python forgets the signals that a child gets before this runs, so they are held back until then.
    """
    if _forking.mask is not None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _release_sigterm()


if hasattr(os, 'register_at_fork'):  # not on Windows
    os.register_at_fork(
        before=_hold_sigterm,
        after_in_parent=_release_sigterm,
        after_in_child=_restore_default_in_child,
    )


def _protect_workers(loader: DataLoader) -> None:
    """Let a data loader's workers end at their parent's SIGTERM only.

    Without its workers, a process could not finish the current step, and the others would wait.
    """
    if getattr(loader.worker_init_fn, 'func', None) is not _begin_worker:
        loader.worker_init_fn = partial(_begin_worker, loader.worker_init_fn)


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

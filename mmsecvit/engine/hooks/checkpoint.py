"""Writing checkpoints so that a crash at any moment leaves a complete one, and finding it again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoints import CheckpointError

LAST_CHECKPOINT = 'last_checkpoint'  # mmengine's name for the file that names a checkpoint
ATOMIC = dict(backend='atomic')


@register_backend(ATOMIC['backend'], force=True)
class AtomicBackend(LocalBackend):
    """Local files that are either complete or not there, whatever interrupts their writing."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file beside its place, and move it there once it is on the disk.

        Args:
            obj: What to write.
            filepath: Where. What is there stays until all is written.

        Raises:
            OSError: If it cannot be written: the disk is full, say.
        """
        filepath = Path(filepath)
        filepath.parent.mkdir(parents=True, exist_ok=True)
        # One name for all files of a folder: what a crash leaves is overwritten by the next.
        unfinished = filepath.with_name('unfinished_checkpoint')
        try:
            with open(unfinished, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, filepath)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                f'{error.strerror}: checkpoint {filepath} ({len(obj) / 2**20:.0f} MiB) was not '
                'written, and the earlier ones are as they were; go on from the last with --resume',
            ) from error
        folder = os.open(filepath.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, is to outlive a power cut
        finally:
            os.close(folder)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, of whose checkpoints one is complete at any moment.

    A file gets its name when all of it is on the disk, and those that it replaces
    (``max_keep_ckpts``, ``save_best``) are removed afterwards, not before.

    What goes into a remote store (``out_dir`` with a scheme, ``backend_args``) is left to it.
    """

    backend_args: dict | None
    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        given = self.backend_args or self.file_client_args
        if not given and '://' not in str(self.out_dir or runner.work_dir):
            self.backend_args = ATOMIC
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        removed: list[str] = []
        backend = self.file_backend
        self.file_backend = _Deferring(backend, removed)
        try:
            yield
        finally:
            self.file_backend = backend
        for path in removed:
            backend.remove(path)


class _Deferring:
    """A file backend that notes what to remove."""

    def __init__(self, backend: LocalBackend, removed: list[str]) -> None:
        self._backend = backend
        self.remove = removed.append

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)


def find_last_checkpoint(work_dir: str | Path) -> Path | None:
    """Find the checkpoint from which a run in ``work_dir`` goes on.

    Args:
        work_dir: Work directory of earlier runs.

    Returns:
        What ``last_checkpoint`` names. Where a crash came before that was written: the newest
        of the regular checkpoints. None if there are none.

    Raises:
        CheckpointError: If ``last_checkpoint`` names a file that does not exist.
    """
    note = Path(work_dir, LAST_CHECKPOINT)
    named = note.read_text().strip() if note.is_file() else ''
    if named:
        if not Path(named).exists():
            raise CheckpointError(
                f'{note} names {named}, which does not exist: write the path of the checkpoint '
                'to go on with into it, or give it to --resume'
            )
        return Path(named)
    regular = list_regular_checkpoints(work_dir)
    return regular[-1] if regular else None


def list_regular_checkpoints(work_dir: str | Path) -> list[Path]:
    """List the checkpoints that a run in ``work_dir`` wrote at its intervals, oldest first."""
    found = [*Path(work_dir).glob('epoch_*.pth'), *Path(work_dir).glob('iter_*.pth')]
    return sorted(found, key=lambda path: path.stat().st_mtime)

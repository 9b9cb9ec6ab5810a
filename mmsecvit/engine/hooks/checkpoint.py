"""Write checkpoints so that a crash at any moment leaves a complete one, and find it again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint

from ...checkpoints import CheckpointError

LAST_CHECKPOINT = 'last_checkpoint'  # mmengine's name of the file that names a checkpoint
ATOMIC = dict(backend='atomic')


@register_backend(ATOMIC['backend'], force=True)
class AtomicBackend(LocalBackend):
    """Local files that are either complete or absent, whatever interrupts their writing."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file under another name, and rename it once it is on the disk.

        Args:
            obj: The content.
            filepath: The file's path. An existing file stays until all is written.

        Raises:
            OSError: If the file cannot be written, for example because the disk is full.
        """
        filepath = Path(filepath)
        filepath.parent.mkdir(parents=True, exist_ok=True)
        # All files of a folder share this name, so the next file overwrites what a crash leaves.
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
                'written, and the earlier ones are as they were; resume from the last one with '
                '--resume',
            ) from error
        folder = os.open(filepath.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name has to survive a power cut, too
        finally:
            os.close(folder)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, which keeps one complete checkpoint at any moment.

    A file gets its name when all of it is on the disk. The files that it replaces
    (``max_keep_ckpts``, ``save_best``) are removed afterwards, not before. Checkpoints in a remote
    store (``out_dir`` with a scheme, ``backend_args``) are written as mmengine writes them.
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
        wanted = self.key_indicators if self.save_best else []
        missing = [key for key in wanted if key not in metrics and (key != 'auto' or not metrics)]
        if missing:
            # mmdet's CocoMetric gives nothing as long as a detector predicts nothing.
            runner.logger.warning(
                f'No best checkpoint is chosen: save_best asks for {", ".join(missing)}, and this '
                f'validation gave {", ".join(metrics) or "no metric"}.'
            )
            return
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
    """A file backend that notes which files to remove instead of removing them."""

    def __init__(self, backend: LocalBackend, removed: list[str]) -> None:
        self._backend = backend
        self.remove = removed.append

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)


def find_last_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the checkpoint from which a run in ``work_dir`` resumes.

    Args:
        work_dir: Work directory of earlier runs.

    Returns:
        The checkpoint that mmengine finds, which ``last_checkpoint`` names. If a crash came before
        that file was written, the newest regular checkpoint. None if there is none.

    Raises:
        CheckpointError: If ``last_checkpoint`` names a file that does not exist.
    """
    note = Path(work_dir, LAST_CHECKPOINT)
    named = find_latest_checkpoint(str(work_dir)) if note.is_file() else ''
    if named:
        if not Path(named).exists():
            raise CheckpointError(
                f'{note} names {named}, which does not exist: write the path of the checkpoint '
                'to resume from into it, or give that path to --resume'
            )
        return Path(named)
    regular = list_regular_checkpoints(work_dir)
    return regular[-1] if regular else None


def list_regular_checkpoints(work_dir: str | Path) -> list[Path]:
    """Return the checkpoints that a run in ``work_dir`` wrote at its intervals, oldest first."""
    found = [*Path(work_dir).glob('epoch_*.pth'), *Path(work_dir).glob('iter_*.pth')]
    return sorted(found, key=lambda path: path.stat().st_mtime)

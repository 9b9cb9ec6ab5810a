"""A training loop that can resume in the middle of an epoch."""

from collections.abc import Sequence

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, which can also resume in the middle of an epoch.

    Attributes:
        trained_batches: Number of batches of the current epoch that were trained before the
            interruption. They are loaded again and skipped, so that the data loader's workers draw
            the same random numbers as before. ``InterruptionHook`` reads it from the checkpoint.
    """

    trained_batches = 0

    def run_epoch(self) -> None:
        super().run_epoch()
        self.trained_batches = 0

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        if idx >= self.trained_batches:
            super().run_iter(idx, data_batch)
        else:
            self.runner.call_hook('after_skipped_iter')

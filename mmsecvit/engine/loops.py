"""A training loop that can go on in the middle of an epoch."""

from collections.abc import Sequence

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop

from .hooks.step_seed import DATA, seed_step


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, which can go on in the middle of an epoch too.

    Attributes:
        trained_batches: How many batches of the current epoch were trained before the run was
            interrupted. They are loaded again, so that workers draw the same random numbers.
    """

    trained_batches = 0

    def run_epoch(self) -> None:
        super().run_epoch()
        self.trained_batches = 0

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        if idx >= self.trained_batches:
            super().run_iter(idx, data_batch)
        else:
            seed_step(self.runner, self._iter, DATA)

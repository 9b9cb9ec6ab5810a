"""Draw the clusters of training images."""

from collections.abc import Sequence
from contextlib import ExitStack

import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...backbones.base import find_backbone
from ...errors import InputError


@HOOKS.register_module()
class ClusterVisualizationHook(Hook):
    """Log the clusters of a training image to all backends of the visualizer.

    The clusters are recorded during the training step: no forward pass is added, and no result
    changes.

    Args:
        interval: Number of iterations between two pictures. Defaults to 500.
        stages: Stages to draw, counted from 1. Defaults to (1, 2, 3).
        block: Block of each stage, counted from 0. Defaults to -1, the last one.
        heads: As in :func:`mmsecvit.visualization.cluster_maps`. Defaults to ``mean``.

    Raises:
        ValueError: If ``interval`` is not an integer of at least 1, ``heads`` is none of its
            values, or, when training begins, the backbone has no such stage or block.

    Example:
        >>> custom_hooks = [dict(type='ClusterVisualizationHook', interval=1000)]
    """

    def __init__(
        self,
        interval: int = 500,
        stages: Sequence[int] = (1, 2, 3),
        block: int = -1,
        heads: str | int = 'mean',
    ) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise InputError(f'interval must be an integer of at least 1, got {interval!r}')
        if heads not in ('all', 'mean') and not (isinstance(heads, int) and heads >= 0):
            raise InputError(f"heads must be 'all', 'mean' or a head's number, got {heads!r}")
        self.interval = interval
        self.stages = stages
        self.block = block
        self.heads = heads
        self._recording = ExitStack()

    def before_train(self, runner: Runner) -> None:
        """Raise a ValueError unless the backbone has these stages and this block."""
        from ...visualization import record_ranks

        with record_ranks(find_backbone(runner.model), self.stages, self.block):
            pass

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Begin to record, if this iteration is one to draw."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        from ...visualization import record_ranks

        backbone = find_backbone(runner.model)
        self._recorded = self._recording.enter_context(
            record_ranks(backbone, self.stages, self.block)
        )
        handle = backbone.register_forward_pre_hook(self._keep_image)
        self._recording.callback(handle.remove)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Draw the recorded clusters."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        from ...visualization import draw_clusters, image_normalization

        self._recording.close()
        normalization = {k: np.array(v) for k, v in image_normalization(runner.cfg).items()}
        to_bgr = normalization.pop('to_rgb')
        image = mmcv.imdenormalize(self._image, **normalization, to_bgr=to_bgr)
        image = mmcv.bgr2rgb(image.clip(0, 255).round().astype(np.uint8))
        picture = draw_clusters(image, self._recorded, self.heads)
        runner.visualizer.add_image('clusters', picture, step=runner.iter + 1)

    def _keep_image(self, backbone: nn.Module, inputs: tuple[Tensor]) -> None:
        self._image = inputs[0][0].detach().float().permute(1, 2, 0).cpu().numpy()

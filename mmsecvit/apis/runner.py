"""Build the runner of a config."""

from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.model import BaseTTAModel
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ..compat import (
    join_gloo,
    own_visualizer,
    without_empty_env_cfg,
    without_empty_hooks,
    wrapper_for_cpus,
)
from ..datasets import set_coco_types, set_image_backend
from ..errors import InputError
from .config import check_operators
from .config_changes import add_imports, without_sync_batch_norm


def build_runner(cfg: Config, built: nn.Module | None = None) -> Runner:
    """Build the runner that a config names, adapted to this machine.

    Without an accelerator, processes communicate over gloo, and batch norms are not synchronized.
    Neither changes the config, which the run writes into its work directory. Image loaders without
    a file backend get the one that names a broken file, and mmdet's data set and metric for COCO's
    files become those that check them; both do change the config.

    Args:
        cfg: The config, with ``work_dir`` and ``launcher``.
        built: Model to run instead of the config's.

    Returns:
        The runner.

    Raises:
        ValueError: If the machine lacks what the config's ``launcher`` or model needs.
    """
    check_operators(cfg)
    on_cpu = get_device() == 'cpu'
    if on_cpu and cfg.launcher == 'pytorch':
        join_gloo()
    elif on_cpu and cfg.launcher != 'none':
        raise InputError(
            f"launcher {cfg.launcher!r} needs accelerators; on CPUs use 'pytorch', as "
            'tools/dist_train.sh does'
        )
    runner_type = cfg.get('runner_type', 'Runner')
    base: Any = RUNNERS.get(runner_type) if isinstance(runner_type, str) else runner_type

    class AdaptedRunner(base):
        """The config's runner; its ``from_cfg`` passes the parts to build, and the whole config."""

        def __init__(self, model: ConfigDict, **parts: Any) -> None:
            if on_cpu:
                model = without_sync_batch_norm(model)
            parts = without_empty_hooks(without_empty_env_cfg(own_visualizer(parts)))
            super().__init__(model if built is None else built, **parts)

        def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
            if self.distributed and isinstance(model, BaseTTAModel):
                # mmengine <= 0.10.7 and OneDL's <= 0.10.12 (`load_state_dict`): they look into one
                # wrapper, and load nothing into a model in two. A test needs no second one. Remove
                # when they look into both.
                return model.to(get_device())
            if on_cpu and self.distributed:
                model_wrapper_cfg = wrapper_for_cpus(model_wrapper_cfg, self.cfg)
            return super().wrap_model(model_wrapper_cfg, model)

    settings = ', '.join(set_image_backend(cfg))
    types = ', '.join(set_coco_types(cfg))
    if settings or types:
        add_imports(cfg, ['mmsecvit'])
    runner = AdaptedRunner.from_cfg(cfg)
    if settings:
        runner.logger.info(f"dict(backend='checked_image') is filled in as {settings}.")
    if types:
        runner.logger.info(
            f"mmdet's classes are replaced by those that check COCO's files: {types}."
        )
    return runner

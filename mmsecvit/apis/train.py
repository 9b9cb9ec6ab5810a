"""Train: what tools/train.py does."""

import atexit
import gc
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ..checkpoints import CheckpointReader, check_weights
from ..datasets import check_data, set_image_backend
from ..engine.hooks import InterruptionHook, StepSeedHook
from .config import (
    adapt_to_cpu,
    check_operators,
    load_config,
    set_amp,
    set_auto_scale_lr,
    set_crash_safety,
    set_pretrained,
    set_resume,
    set_tensorboard,
    starts_from_scratch,
)
from .summary import summarize


def train(
    config: str | Path,
    work_dir: str | None = None,
    pretrained: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: str | None = None,
    tensorboard: bool = False,
    launcher: str = 'none',
    cfg_options: dict | None = None,
    trust: bool = False,
) -> Runner:
    """Train the model of a config.

    SIGTERM saves a checkpoint and ends the process; ``resume`` goes on from there.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        work_dir: Where logs and checkpoints go. Defaults to the config's own, else to
            ``work_dirs/`` and the config's name.
        pretrained: Checkpoint for the backbone, a file or an http(s) address.
        amp: Whether to train with automatic mixed precision.
        auto_scale_lr: Whether to scale the learning rate with the batch size.
        resume: ``auto`` for the latest checkpoint in ``work_dir``, or a checkpoint's path.
        tensorboard: Whether to log for TensorBoard too, into ``work_dir``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        cfg_options: Values by dotted key that override the config's.
        trust: Whether to execute code that a checkpoint may hold.

    Returns:
        The runner, after training.

    Raises:
        ValueError: If an option does not fit the config or the machine, the annotations do not
            have the classes, or an image or segmentation map cannot be read.
        CheckpointError: If ``pretrained`` or ``resume`` is damaged, holds code or does not fit.
        FileNotFoundError: If ``pretrained``, ``resume`` or a part of the data does not exist.
        FileExistsError: If ``work_dir`` holds checkpoints and ``resume`` is not given.
    """
    cfg = load_config(config, work_dir, launcher, cfg_options)
    reader = CheckpointReader(trust)
    if pretrained is not None:
        set_pretrained(cfg, pretrained, reader)
    if amp:
        if get_device() == 'cpu':
            raise ValueError('amp needs an accelerator, and none was found')
        set_amp(cfg)
    if auto_scale_lr:
        set_auto_scale_lr(cfg)
    if tensorboard:
        set_tensorboard(cfg)
    set_resume(cfg, resume, reader)
    set_crash_safety(cfg)
    check_data(cfg, ('train', 'val'))
    with reader.serving_mmengine():
        runner = build_runner(cfg)
        load_from = cfg.get('load_from')
        if load_from and isinstance(runner.model, nn.Module) and not Path(load_from).is_dir():
            # Heads may differ on purpose, where other classes are learned.
            part = '' if cfg.resume else 'backbone.'
            check_weights(runner.model, reader.read(load_from), load_from, config, part)
        interruption = InterruptionHook()
        runner.register_hook(interruption)
        runner.register_hook(StepSeedHook())
        if starts_from_scratch(cfg):
            runner.logger.warning(
                'The backbone trains from scratch: give it weights with --pretrained PATH, or go '
                'on with an earlier run with --resume.'
            )
        with interruption.listening(runner):
            runner.train()
    runner.logger.info(summarize(runner))
    return runner


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, changed for a machine without accelerators."""
    check_operators(cfg)
    if cfg.get('visualizer'):
        # Without a name mmengine gives it the run's own. Under the one name that the toolboxes give
        # to all, a second run in this process would get the first one's visualiser and folder.
        cfg.visualizer.pop('name', None)
    if get_device() == 'cpu':
        adapt_to_cpu(cfg)
        # mmengine's own initialisation asks CUDA for its devices, whatever the backend.
        if cfg.launcher == 'pytorch':
            torch.distributed.init_process_group('gloo')
            atexit.register(_leave_process_group)
        elif cfg.launcher != 'none':
            raise ValueError(
                f"launcher {cfg.launcher!r} needs accelerators; on CPUs use 'pytorch', as "
                'tools/dist_train.sh does'
            )
    settings = ', '.join(set_image_backend(cfg))
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if settings:
        runner.logger.info(f"dict(backend='checked_image') is filled in as {settings}.")
    return runner


def _leave_process_group() -> None:
    """End gloo's threads, whatever ends the run: one that outlives Python may abort the process."""
    # They end with the last reference to the group, and a model in a cycle has one.
    gc.collect()
    torch.distributed.destroy_process_group()

"""Train: what tools/train.py does."""

from pathlib import Path

from mmengine.device import get_device
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..checkpoints import CheckpointReader, check_weights
from ..datasets import check_data
from ..errors import InputError
from .batches import check_image_sizes, check_training_batches
from .class_names import check_trained_classes
from .config import load_config
from .config_changes import (
    fill_in_engine,
    fill_in_loaders,
    set_amp,
    set_auto_scale_lr,
    set_resume,
    set_tensorboard,
)
from .first_samples import check_first_samples
from .pretrained import set_pretrained, starts_from_scratch
from .runner import build_runner
from .schedules import check_iterations
from .settings import check_settings
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

    SIGTERM saves a checkpoint and ends the process; ``resume`` continues from there.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        work_dir: Folder for logs and checkpoints. Defaults to the config's ``work_dir``, else to
            ``work_dirs/`` and the config's name.
        pretrained: Checkpoint with weights for the backbone, a file or an http(s) address.
        amp: Whether to train with automatic mixed precision.
        auto_scale_lr: Whether to scale the learning rate with the batch size.
        resume: ``auto`` for the latest checkpoint in ``work_dir``, or a checkpoint's path.
        tensorboard: Whether to log for TensorBoard, too, into ``work_dir``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        cfg_options: Values by dotted key that override the config's.
        trust: Whether to execute code that a checkpoint may hold.

    Returns:
        The runner, after training.

    Raises:
        ConfigError: If settings of the config do not fit each other.
        ValueError: If an option does not fit the config or the machine, the annotations lack
            classes of the config, or an image or segmentation map cannot be read.
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
            raise InputError('amp needs an accelerator, and none was found')
        set_amp(cfg)
    if auto_scale_lr:
        set_auto_scale_lr(cfg)
    if tensorboard:
        set_tensorboard(cfg)
    to_resume = resume or cfg.get('resume')
    filled_in = [set_resume(cfg, resume, reader)]
    filled_in += [fill_in_engine(cfg), fill_in_loaders(cfg, ('train', 'val'))]
    suspicious = check_settings(cfg, ('train', 'val'))
    suspicious += check_data(cfg, ('train', 'val'))
    if cfg.get('resume') and Path(cfg.load_from).is_file():
        earlier = reader.read(cfg.load_from)
        suspicious += check_trained_classes(cfg, ('train', 'val'), earlier, cfg.load_from)
    with reader.serving_mmengine():
        runner = build_runner(cfg)
        load_from = cfg.get('load_from')
        if load_from and isinstance(runner.model, nn.Module) and not Path(load_from).is_dir():
            # A run that starts from weights may have other classes, and so other heads.
            part = '' if cfg.get('resume') else 'backbone.'
            check_weights(runner.model, reader.read(load_from), load_from, config, part)
        for message in filter(None, filled_in):
            runner.logger.info(message)
        for message in suspicious:
            runner.logger.warning(message)
        if pretrained and load_from and not cfg.get('resume'):
            runner.logger.warning(
                f'{load_from} is loaded after {pretrained} (--pretrained) and replaces its weights.'
            )
        if to_resume and not cfg.resume:
            runner.logger.warning(
                f'There is nothing to resume: {cfg.work_dir} holds no checkpoint. The run begins '
                'from the start.'
            )
        if starts_from_scratch(cfg):
            runner.logger.warning(
                'The backbone trains from scratch, and frozen stages keep random weights if there '
                'are any: give it weights with --pretrained PATH.'
            )
        for split in ('train', 'val'):
            check_first_samples(runner, split)
        check_training_batches(runner)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            for message in check_iterations(cfg, runner.train_loop.max_iters):
                runner.logger.warning(message)
        check_image_sizes(runner, 'val')
        runner.train()
    runner.logger.info(summarize(runner))
    return runner

"""Test: what tools/test.py does."""

from pathlib import Path

from ..checkpoints import CheckpointReader, check_weights
from ..datasets import check_data
from ..errors import InputError
from .config import load_config, set_visualization
from .runner import build_runner
from .settings import check_settings


def test(
    config: str | Path,
    checkpoint: str,
    work_dir: str | None = None,
    out: str | None = None,
    show: bool = False,
    show_dir: str | None = None,
    wait_time: float = 2.0,
    launcher: str = 'none',
    cfg_options: dict | None = None,
    trust: bool = False,
) -> dict[str, float]:
    """Evaluate a checkpoint with the config's own metrics.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        checkpoint: Weights of the whole model, a file or an http(s) address.
        work_dir: Folder for the log and the metrics, as in :func:`train`.
        out: Pickle file for the predictions, which must not exist yet.
        show: Whether to show predictions in windows.
        show_dir: Folder for pictures of the predictions.
        wait_time: Time that a window stays open, in seconds.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        cfg_options: Values by dotted key that override the config's.
        trust: Whether to execute code that the checkpoint may hold.

    Returns:
        The metrics by name.

    Raises:
        ConfigError: If settings of the config do not fit each other.
        ValueError: If ``out`` is no pickle file, the annotations lack classes of the config, or an
            image or segmentation map cannot be read.
        CheckpointError: If the checkpoint is damaged, holds code or is not of this model.
        FileNotFoundError: If the config, the checkpoint or a part of the data does not exist.
        FileExistsError: If ``out`` exists.
    """
    if out is not None and Path(out).suffix not in ('.pkl', '.pickle'):
        raise InputError(f'out must end with .pkl or .pickle, got {out}')
    if out is not None and Path(out).exists():
        raise FileExistsError(f'out must be a new file, but {out} exists')
    cfg = load_config(config, work_dir, launcher, cfg_options)
    cfg.load_from = checkpoint
    cfg.pop('runner_type', None)  # FlexibleRunner's strategies are for training
    if show or show_dir:
        set_visualization(cfg, show, show_dir, wait_time)
    suspicious = check_settings(cfg, ('test',))
    suspicious += check_data(cfg, ('test',))
    reader = CheckpointReader(trust)
    reader.read(checkpoint)  # refuse what cannot be read before all work
    with reader.serving_mmengine():
        runner = build_runner(cfg)
        for message in suspicious:
            runner.logger.warning(message)
        # mmengine would load what fits and skip the rest.
        check_weights(runner.model, reader.read(checkpoint), checkpoint, config)
        if out is not None:
            # mmdet's own class also encodes masks, which are too large otherwise.
            metric = 'mmdet.DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
            runner.test_evaluator.metrics.append(
                runner.build_evaluator(dict(type=metric, out_file_path=out)).metrics[0]
            )
        return runner.test()

"""Test: what tools/test.py does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import DumpResults

from ..checkpoints import CheckpointReader, check_weights
from ..datasets import check_data
from ..errors import InputError
from .augmentation import check_merging, set_tta
from .batches import check_image_sizes
from .class_names import check_trained_classes
from .config import load_config
from .config_changes import fill_in_loaders, set_visualization
from .exported_testing import open_exported
from .first_samples import check_first_samples
from .pictures import keep_folders
from .runner import build_runner
from .settings import check_display, check_settings


def test(
    config: str | Path,
    checkpoint: str,
    work_dir: str | None = None,
    out: str | None = None,
    show: bool = False,
    show_dir: str | None = None,
    wait_time: float = 2.0,
    tta: bool = False,
    launcher: str = 'none',
    cfg_options: dict | None = None,
    trust: bool = False,
) -> dict[str, float]:
    """Evaluate a checkpoint, or a file that was exported from it, with the config's own metrics.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        checkpoint: Weights of the whole model, a file or an http(s) address. Or an ``.onnx`` file
            of a whole model; see :func:`export`.
        work_dir: Folder for the log and the metrics, as in :func:`train`.
        out: Pickle file for the predictions, which must not exist yet. Of a segmenter, the classes
            of the pixels are kept, and no scores.
        show: Whether to show predictions in windows.
        show_dir: Folder for pictures of the predictions.
        wait_time: Time that a window stays open, in seconds.
        tta: Whether to test with augmentation; see :func:`set_tta`.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        cfg_options: Values by dotted key that override the config's.
        trust: Whether to execute code that the checkpoint may hold.

    Returns:
        The metrics by name.

    Raises:
        ConfigError: If settings of the config do not fit each other.
        InputError: If ``out`` is no pickle file, the annotations lack classes of the config, or an
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
    exported = Path(checkpoint).suffix == '.onnx'
    if exported and tta:
        raise InputError(f'tta needs a checkpoint, got the exported file {checkpoint}')
    cfg.load_from = None if exported else checkpoint
    cfg.pop('runner_type', None)  # FlexibleRunner's strategies are for training
    if show or show_dir:
        set_visualization(cfg, show, show_dir, wait_time)
    if show:
        check_display()
    if tta:
        set_tta(cfg)
    filled_in = fill_in_loaders(cfg, ('test',))
    suspicious = check_settings(cfg, ('test',))
    suspicious += check_data(cfg, ('test',))
    reader = CheckpointReader(trust)
    # Refuse what cannot be read before all work.
    if exported:
        model = open_exported(cfg, config, checkpoint)
        content = dict(meta=dict(dataset_meta=model.file.metadata))
    else:
        model, content = None, reader.read(checkpoint)
    suspicious += check_trained_classes(cfg, ('test',), content, checkpoint)
    with reader.serving_mmengine():
        runner = build_runner(cfg, model)
        if filled_in:
            runner.logger.info(filled_in)
        for message in suspicious:
            runner.logger.warning(message)
        check_merging(runner.model)
        if model is None:
            # mmengine would load what fits and skip the rest.
            check_weights(runner.model, content, checkpoint, config)
        if show_dir:
            keep_folders(runner)
        if out is not None:
            runner.test_evaluator.metrics.append(_dump(cfg.default_scope, out))
        check_first_samples(runner, 'test')
        check_image_sizes(runner, 'test')
        return runner.test()


def _dump(scope: str, out: str) -> DumpResults:
    """Return the metric that writes predictions into a file."""
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults  # also encodes masks

        return DumpDetResults(out_file_path=out)
    return (DumpSegmentations if scope == 'mmseg' else DumpResults)(out_file_path=out)


class DumpSegmentations(DumpResults):
    """Write what a segmenter predicts into a file.

    Logits (600 bytes for each pixel of ADE20K) and what was loaded from the data set stay out, as
    in mmdet's ``DumpDetResults``.
    """

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep the predictions of one batch without logits."""
        super().process(
            data_batch,
            [
                {k: x for k, x in p.items() if k != 'seg_logits' and not k.startswith('gt_')}
                for p in predictions
            ],
        )

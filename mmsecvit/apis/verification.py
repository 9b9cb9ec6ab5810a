"""Verify the image files of a config's data sets."""

import sys
from pathlib import Path

from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import track_iter_progress

from ..datasets import check_data, find_damaged_images, find_datasets
from ..datasets.nodes import is_local
from ..errors import InputError
from .config import load_config

FILES = ('img_path', 'seg_map_path')  # the toolboxes' names for the files of a sample


def verify_images(
    config: str | Path, cfg_options: dict | None = None
) -> tuple[int, dict[str, str]]:
    """Check each image and segmentation map that the data sets of a config name.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        cfg_options: Values by dotted key that override the config's.

    Returns:
        The number of files, and the result of
        :func:`mmsecvit.datasets.find_damaged_images`.

    Raises:
        ValueError: If a data set is in a remote store, or as in
            :func:`mmsecvit.datasets.check_data`.
        FileNotFoundError: As in :func:`mmsecvit.datasets.check_data`.
    """
    cfg = load_config(config, cfg_options=cfg_options)
    splits = [s for s in ('train', 'val', 'test') if cfg.get(f'{s}_dataloader')]
    check_data(cfg, splits)
    files: set[str] = set()
    for split in splits:
        loader = cfg[f'{split}_dataloader']
        for setting, node in find_datasets(loader, f'{split}_dataloader'):
            if not is_local(node, node.get('data_root') or '.'):
                raise InputError(f'{setting} must be on local disks, but is in a remote store')
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            dataset = DATASETS.build(loader.dataset)
        for i in range(len(dataset)):
            sample = dataset.get_data_info(i)
            files.update(sample[key] for key in FILES if sample.get(key))
    progress = track_iter_progress(sorted(files), file=sys.stderr)
    return len(files), find_damaged_images(progress)

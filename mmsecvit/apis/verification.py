"""Verify the data of a config: what tools/analysis/verify_dataset.py does."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import track_iter_progress

from ..datasets import Finding, set_coco_types
from ..datasets.checks import find_faults
from .config import ConfigError, load_config
from .settings import check_settings


def verify_dataset(
    config: str | Path, cfg_options: dict | None = None, out: str | Path | None = None
) -> list[Finding]:
    """Check the data of a config, and read each image and label image.

    What a training would refuse, mend or warn of before it builds the model is found here, too,
    without an end at the first; of settings, the first that it would refuse.
    A bar on the standard error shows the progress.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        cfg_options: Values by dotted key that override the config's.
        out: JSON file for the findings, which must not exist yet.

    Returns:
        A finding for each kind of fault in a file or data set.

    Raises:
        FileExistsError: If ``out`` exists.
    """
    if out is not None:
        if Path(out).exists():
            raise FileExistsError(f'out must be a new file, but {out} exists')
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    cfg = load_config(config, cfg_options=cfg_options)
    set_coco_types(cfg)  # as training does
    splits = [s for s in ('train', 'val', 'test') if cfg.get(f'{s}_dataloader')]
    found = [*_find_settings(cfg, splits, str(config)), *find_faults(cfg, splits, _track)]
    each = {finding.message: finding for finding in found}
    findings = list(each.values())
    if out is not None:
        Path(out).write_text(json.dumps([asdict(finding) for finding in findings], indent=1))
    return findings


def _find_settings(cfg: Config, splits: Sequence[str], file: str) -> Iterator[Finding]:
    """Find settings of a config that do not fit each other."""
    try:
        for message in check_settings(deepcopy(cfg), splits):
            yield Finding('setting', file, message, 'warning')
    except ConfigError as error:
        yield Finding('setting', file, str(error))


def _track(items: Sequence) -> Iterable:
    return track_iter_progress(items, file=sys.stderr)

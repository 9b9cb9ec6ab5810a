"""Check the data that a config names before anything is built."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .class_folders import check_class_folders
from .coco import find_coco_faults, find_evaluator_faults
from .findings import MISSING, DataError, Finding, must_exist, report
from .nodes import find_datasets, is_local
from .unlabeled import find_missing_labels


def check_data(cfg: Config, splits: Iterable[str]) -> list[str]:
    """Raise an error unless the data of a config exists and fits the config.

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` to check.

    Returns:
        Sentences for the log on what is suspicious, or was mended.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        DataError: If the data does not fit the config.
    """
    return report(find_faults(cfg, splits))


def find_faults(cfg: Config, splits: Iterable[str], thorough: bool = False) -> Iterator[Finding]:
    """Find what is wrong with the data of a config on local disks.

    Data roots, folders, and annotation files of data sets and evaluators must exist; annotation
    files in COCO's format must have all classes of the data set; in a classifier's folders of
    classes, each must have an image. (Other data sets of classifiers may download themselves.)

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` to check.
        thorough: Whether to read all files. Otherwise, where that takes more than seconds, only
            a sample of them is read.

    Yields:
        A finding for each kind of fault.
    """
    if cfg.get('default_scope') not in ('mmdet', 'mmseg', 'mmpretrain'):
        return
    check = check_class_folders if cfg.default_scope == 'mmpretrain' else _check_dataset
    checked: list[ConfigDict] = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for setting, dataset in find_datasets(loader, f'{split}_dataloader'):
            if dataset in checked:
                continue
            checked.append(dataset)
            yield from _as_findings(check, setting, dataset)
            if cfg.default_scope == 'mmdet' and is_local(dataset, dataset.get('data_root') or '.'):
                yield from find_coco_faults(setting, dataset, thorough)
        yield from find_missing_labels(cfg, split)
        evaluator = cfg.get(f'{split}_evaluator') or {}
        for i, metric in enumerate(evaluator if isinstance(evaluator, list) else [evaluator]):
            index = f'.{i}' if isinstance(evaluator, list) else ''
            if is_local(metric, metric.get('ann_file')):
                yield from _as_findings(
                    must_exist, f'{split}_evaluator{index}.ann_file', metric.ann_file
                )
        if cfg.default_scope == 'mmdet':
            yield from find_evaluator_faults(cfg, split, thorough)


def _as_findings(check: Callable, *arguments: Any) -> Iterator[Finding]:
    """Turn the error of a check that raises one into a finding."""
    try:
        check(*arguments)
    except FileNotFoundError as error:
        yield Finding(MISSING, '', str(error))
    except DataError as error:
        yield Finding('refused', '', str(error))


def _check_dataset(setting: str, dataset: ConfigDict) -> None:
    root = dataset.get('data_root') or ''
    if not is_local(dataset, root or '.'):
        return
    if root:
        must_exist(f'{setting}.data_root', root)
    prefixes = dataset.get('data_prefix') or {}
    for name, prefix in prefixes.items() if isinstance(prefixes, dict) else ():
        if isinstance(prefix, str):
            must_exist(f'{setting}.data_prefix.{name}', Path(root, prefix))
        elif root:  # without a root, mmseg reads None as: there are no label images
            raise DataError(
                f'{setting}.data_prefix.{name} must be a path, got {prefix}: if there are no such '
                'files, leave it out, with data_prefix=dict(_delete_=True, ...)'
            )
    if not dataset.get('ann_file'):
        return
    must_exist(f'{setting}.ann_file', Path(root, dataset.ann_file))

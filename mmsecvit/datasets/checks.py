"""Check the data that a config names before anything is built."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from ..errors import InputError
from .class_folders import find_class_faults
from .class_order import find_other_numbers, find_other_zeros
from .coco import find_coco_faults, find_evaluator_faults, find_lack_of_objects
from .file_backend import LOADERS
from .findings import MISSING, DataError, Finding, must_be_path, must_exist, report
from .label_maps import find_label_faults
from .multi_labels import find_multi_label_faults
from .nodes import find_datasets, find_nodes, is_local, type_name
from .samples import Track, find_damage, is_of_toolboxes, reads_local_files
from .unlabeled import find_missing_labels
from .voc import find_voc_faults


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


def find_faults(
    cfg: Config, splits: Iterable[str], track: Track | None = None
) -> Iterator[Finding]:
    """Find what is wrong with the data of a config on local disks.

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` to check.
        track: Shows progress: a function from the files of a data set to an iterator over them. All
            files are read. Without it, only so many are read as take seconds.

    Yields:
        A finding for each kind of fault.
    """
    if cfg.get('default_scope') not in ('mmdet', 'mmseg', 'mmpretrain'):
        return
    splits = list(splits)
    yield from find_other_numbers(cfg, splits)
    if cfg.default_scope == 'mmseg':
        yield from find_other_zeros(cfg, splits)
    checked: list[ConfigDict] = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for setting, dataset in find_datasets(loader, f'{split}_dataloader'):
            if dataset not in checked:
                checked.append(dataset)
                yield from _catch(_find_dataset_faults(setting, dataset, cfg, track))
        yield from find_missing_labels(cfg, split)
        evaluator = f'{split}_evaluator'
        for setting, metric in find_nodes(cfg.get(evaluator), evaluator, lambda x: 'ann_file' in x):
            path = metric.ann_file
            if is_local(metric, path) and not Path(path).exists():
                message = f'{setting}.ann_file must exist, but {path} does not'
                yield Finding(MISSING, path, message)
        if cfg.default_scope == 'mmdet':
            yield from _catch(find_voc_faults(cfg, split))
        if cfg.default_scope == 'mmdet' and split == 'train':
            yield from _catch(find_lack_of_objects(cfg))
        elif cfg.default_scope == 'mmdet':
            yield from _catch(find_evaluator_faults(cfg, split, bool(track)))


def _catch(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Turn the error of a check that raises one into a finding."""
    try:
        yield from findings
    except FileNotFoundError as error:
        yield Finding(MISSING, '', str(error))
    except InputError as error:
        yield Finding('refused', '', str(error))


def _find_dataset_faults(
    setting: str, dataset: ConfigDict, cfg: Config, track: Track | None
) -> Iterator[Finding]:
    scope, local = cfg.default_scope, is_local(dataset, dataset.get('data_root') or '.')
    if local and scope != 'mmpretrain':
        _check_dataset(setting, dataset, scope)
    faults: Iterator[Finding] = iter(())
    if local and scope == 'mmdet':
        faults = find_coco_faults(setting, dataset, bool(track))
    elif local and scope == 'mmseg':
        faults = find_label_faults(setting, dataset, cfg, track)
    elif local and scope == 'mmpretrain':
        faults = chain(
            find_class_faults(setting, dataset, cfg, track),
            find_multi_label_faults(setting, dataset, cfg),
        )
    errors = 0
    for finding in faults:
        errors += finding.level == 'error'
        yield finding
    if local and track and reads_local_files(dataset):
        # With such errors, the data set may not know its images.
        with suppress(InputError) if errors else nullcontext():
            yield from find_damage(setting, dataset, scope, track)
    elif track:
        yield Finding(
            'remote',
            str(dataset.get('data_root')),
            f'{setting} has its images in another store than local disks: they are not read here',
            'warning',
        )


def _check_dataset(setting: str, dataset: ConfigDict, scope: str) -> None:
    root = dataset.get('data_root') or ''
    if root:
        must_exist(f'{setting}.data_root', root)
    prefixes = dataset.get('data_prefix') or {}
    for name, prefix in prefixes.items() if isinstance(prefixes, dict) else ():
        if isinstance(prefix, str):
            if not all(reads_local_files(dataset, loader) for loader in LOADERS):
                continue
            must_exist(f'{setting}.data_prefix.{name}', Path(root, prefix))
        elif root:  # without a root, mmseg reads None as: there are no label images
            raise DataError(
                f'{setting}.data_prefix.{name} must be a path, got {prefix}: if there are no such '
                'files, leave it out, with data_prefix=dict(_delete_=True, ...)'
            )
    if not dataset.get('ann_file'):
        return
    if not is_of_toolboxes(dataset, DATASETS, scope) and not isinstance(dataset.ann_file, str):
        return
    must_be_path(f'{setting}.ann_file', dataset.ann_file)
    path = Path(root, dataset.ann_file)
    must_exist(f'{setting}.ann_file', path)
    if path.is_dir() and type_name(dataset) in ('CocoDataset', 'CheckedCocoDataset'):
        raise DataError(f'{setting}.ann_file must be a file, but {path} is a folder')

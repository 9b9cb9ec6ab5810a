"""Check that the data sets of a config number classes alike, and labels."""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from mmengine.config import Config

from .findings import DataError, Finding, list_some
from .nodes import find_datasets
from .samples import build_lazily


def find_other_numbers(cfg: Config, splits: Collection[str]) -> Iterator[Finding]:
    """Find classes that have other numbers in one data set than in the ones before it.

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` to check. Data sets of ``train`` are
            compared with in any case.

    Yields:
        A finding for each data set that numbers classes otherwise.
    """
    numbers: dict[str, tuple[int, str]] = {}
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        for setting, dataset in find_datasets(cfg.get(loader), loader):
            classes = (dataset.get('metainfo') or {}).get('classes')
            # With return_classes, a model reads the names with each image: numbers may differ.
            if not isinstance(classes, (list, tuple)) or dataset.get('return_classes'):
                continue
            counts = Counter(classes)  # two classes may have one name, as ImageNet's cranes
            own = {name: i for i, name in enumerate(classes) if counts[name] == 1}
            known = {name: numbers.setdefault(name, (i, setting)) for name, i in own.items()}
            moved = [name for name, i in own.items() if known[name][0] != i]
            if moved and split in splits:
                message = (
                    f'{setting}.metainfo.classes must have the order of {known[moved[0]][1]}.'
                    f'metainfo.classes, since labels are places in it, but not in the same places: '
                    f'{list_some(moved)}'
                )
                yield Finding('order of classes', setting, message, count=len(moved))


def find_other_zeros(cfg: Config, splits: Collection[str]) -> Iterator[Finding]:
    """Find data sets of a segmenter in which 0 is unlabeled, and a class in the first one.

    Args:
        cfg: Config of a segmenter's experiment.
        splits: Which of ``train``, ``val`` and ``test`` to check. The first data set of ``train``
            is compared with in any case.

    Yields:
        A finding for each data set that differs from the first one: an error if both are of one
        kind in one folder, as label images of other sources may count otherwise.
    """
    first: tuple[str, dict, bool] | None = None
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        for setting, dataset in find_datasets(cfg.get(loader), loader):
            try:
                own = getattr(build_lazily(setting, dataset, 'mmseg'), 'reduce_zero_label', None)
            except DataError:  # has its own check
                own = None
            if own is None:
                continue
            first = first or (setting, dataset, bool(own))
            known, other, value = first
            if bool(own) == value or split not in splits:
                continue
            alike = [dataset.get(key) == other.get(key) for key in ('type', 'data_root')]
            folders = [_label_folder(each) for each in (dataset, other)]
            same = all(alike) and bool(dataset.get('data_root')) and folders[0] == folders[1]
            ending = 'must have the value of' if same else 'differs from'
            yield Finding(
                'reduce_zero_label',
                setting,
                f'{setting}.reduce_zero_label, {bool(own)}, {ending} {known}.reduce_zero_label, '
                f'{value}: with True, 0 is unlabeled and the classes begin at 1, so that the same '
                'label images get other classes',
                'error' if same else 'warning',
            )


def _label_folder(dataset: dict) -> Path | None:
    """Return the folder with the label images of all splits, such as ``ann`` of ``ann/val``."""
    folder = (dataset.get('data_prefix') or {}).get('seg_map_path')
    return Path(folder).parent if isinstance(folder, str) else None

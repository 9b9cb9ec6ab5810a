"""Check that the data sets of a config number classes alike."""

from collections import Counter
from collections.abc import Collection, Iterator

from mmengine.config import Config

from .findings import Finding, list_some
from .nodes import find_datasets


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

"""Check the JSON files of a classifier whose images have several labels each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, MODELS

from .findings import Finding, Level, list_some, must_be_path
from .nodes import find_class
from .samples import build_lazily, is_of_toolboxes

SCOPE = 'mmpretrain'


def find_multi_label_faults(setting: str, dataset: ConfigDict, cfg: Config) -> Iterator[Finding]:
    """Find labels that are no class, that look like one-hot vectors, and classes in another order.

    Args:
        setting: Dotted name of the data set.
        dataset: Config of the data set.
        cfg: Config of the whole experiment.
    """
    from mmpretrain.datasets import MultiLabelDataset

    cls: Any = find_class(dataset, DATASETS, SCOPE)
    if not (isinstance(cls, type) and issubclass(cls, MultiLabelDataset)):
        return
    if getattr(cls, 'load_data_list', None) is not BaseDataset.load_data_list:
        return
    must_be_path(f'{setting}.ann_file', dataset.get('ann_file'))
    data = build_lazily(setting, dataset, SCOPE)
    path = Path(data.ann_file) if data is not None else Path()
    head = (cfg.get('model') or {}).get('head')
    if path.suffix != '.json' or not path.is_file() or not isinstance(head, dict):
        return
    # Classes of the user's own may give labels another meaning.
    known = is_of_toolboxes(dataset, DATASETS, SCOPE) and is_of_toolboxes(head, MODELS, SCOPE)
    level: Level = 'error' if known else 'warning'
    try:
        content = json.loads(path.read_text())
        images = [(item.get('img_path'), item['gt_label']) for item in content['data_list']]
        names = content['metainfo'].get('classes')
    except Exception as error:  # what the data set cannot load either, or has another form
        message = (
            f'{setting}.ann_file must have metainfo and a data_list, whose items have img_path and '
            f'gt_label, but reading {path} raises {type(error).__name__}: {error}'
        )
        yield Finding('no list', str(path), message, 'warning')
        return
    yield from _compare_names(setting, str(path), names, data.CLASSES, level)
    yield from _find_odd_labels(setting, str(path), images, head.get('num_classes') or 0, level)


def _compare_names(
    setting: str, path: str, names: Any, given: Any, level: Level
) -> Iterator[Finding]:
    if not isinstance(names, list) or not given or len(set(map(str, names))) != len(names):
        return
    places = {name: i for i, name in enumerate(given)}
    moved = [name for i, name in enumerate(names) if places.get(name, i) != i]
    if moved:
        yield Finding.of(
            moved,
            'order of classes',
            path,
            f'{setting}.metainfo.classes must have the order of metainfo.classes in {path}, since '
            f'labels are places in it, but not in the same places: {list_some(moved)}',
            level,
        )


def _find_odd_labels(
    setting: str, path: str, images: list[tuple[Any, Any]], number: int, level: Level
) -> Iterator[Finding]:
    if not number:
        return
    each = [(image, x if isinstance(x, list) else [x]) for image, x in images]

    def is_odd(label: Any) -> bool:
        # What floats mean is up to the loss.
        return isinstance(label, str) or (isinstance(label, int) and not 0 <= label < number)

    odd = [f'{image} has {labels}' for image, labels in each if any(map(is_odd, labels))]
    vectors = [
        len(x) == number and all(isinstance(i, int) and i in (0, 1) for i in x) for _, x in each
    ]
    if odd:
        yield Finding.of(
            odd,
            'labels out of range',
            path,
            f'{setting}.ann_file must have the numbers of classes from 0 to {number - 1} as '
            f'gt_label, but in {path}, {len(odd)} of {len(each)} images have others: {odd[0]:.200}',
            level,
        )
    elif vectors and all(vectors) and any(len(set(x)) < len(x) for _, x in each):
        yield Finding(
            'one-hot labels',
            path,
            f'{setting}.ann_file should list the numbers of classes as gt_label, but in {path}, '
            f'each image has {number} values of 0 and 1, as in {each[0][1]}: these are read as the '
            'classes 0 and 1, not as a vector',
            'warning',
            len(each),
        )

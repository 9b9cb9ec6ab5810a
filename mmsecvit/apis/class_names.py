"""Name the classes that a model predicts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from ..datasets import find_datasets, type_name
from ..datasets.nodes import find_class
from .class_counts import find_classes_of_splits
from .config import ConfigError


def name_classes(cfg: Config, meta: Mapping[str, Any]) -> dict[str, list]:
    """Return the names and colors of a model's classes.

    The names are those of the checkpoint. If it has none, they are those of the first data set of
    the config, from testing to training, that has as many classes as the model. Otherwise they
    are numbers.

    Args:
        cfg: Config of a whole experiment.
        meta: The ``meta`` of the checkpoint.

    Returns:
        ``classes`` and ``palette`` (RGB), of the same length.
    """
    counts = set(_find_numbers_of_classes(cfg.model))
    found: dict[str, Any] = {}
    for candidate in (_meta_of_checkpoint(meta), *_metas_of_datasets(cfg)):
        names = candidate.get('classes')
        if isinstance(names, (list, tuple)) and (not counts or len(names) in counts):
            found = candidate
            break
    classes = list(found.get('classes') or map(str, range(max(counts, default=0))))
    palette = found.get('palette')
    if not isinstance(palette, (list, tuple)) or len(palette) < len(classes):
        palette = np.random.RandomState(42).randint(0, 256, (len(classes), 3)).tolist()
    return dict(classes=classes, palette=[tuple(color) for color in palette[: len(classes)]])


def check_trained_classes(
    cfg: Config, splits: Iterable[str], checkpoint: Any, path: str
) -> list[str]:
    """Compare the classes of data sets with those that a checkpoint was trained for.

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` to compare.
        checkpoint: Content of the file.
        path: The file, for messages.

    Returns:
        Sentences for the log on classes of other names.

    Raises:
        ConfigError: If a data set has the names of the checkpoint in another order.
    """
    content = checkpoint if isinstance(checkpoint, dict) else {}
    trained = _meta_of_checkpoint(content.get('meta') or {}).get('classes')
    if not isinstance(trained, (list, tuple)):
        return []
    messages = []
    for classes in find_classes_of_splits(cfg, splits):
        names, old_names = ([*map(str, each)] for each in (classes.names, trained))
        pairs = [*zip(names, old_names, strict=False)]
        other = [i for i, (own, old) in enumerate(pairs) if own.lower() != old.lower()]
        if not other or len(names) != len(old_names):
            continue
        own, old = pairs[other[0]]
        has = f'its class {other[0]} is {old!r}, got {own!r}'
        if sorted(names) == sorted(old_names):
            raise ConfigError(
                f'{classes.setting} must have the order of the checkpoint {path}: {has}'
            )
        messages.append(f'{classes.setting} has other names than the checkpoint {path}: {has}.')
    return [*dict.fromkeys(messages)]


def _meta_of_checkpoint(meta: Mapping[str, Any]) -> dict[str, Any]:
    # Before mmengine, the names were in `meta` itself, in capitals.
    dataset_meta = (meta.get('dataset_meta') or meta) if isinstance(meta, Mapping) else {}
    if not isinstance(dataset_meta, Mapping):
        return {}
    return {str(key).lower(): value for key, value in dataset_meta.items()}


def _metas_of_datasets(cfg: Config) -> Iterator[dict[str, Any]]:
    for split in ('test', 'val', 'train'):
        for _, dataset in find_datasets(cfg.get(f'{split}_dataloader'), split):
            cls = find_class(dataset, DATASETS, cfg.get('default_scope'))
            given = dict(dataset.get('metainfo') or {})
            if dataset.get('classes'):  # mmpretrain's older name
                given.setdefault('classes', dataset.classes)
            if hasattr(cls, '_load_metainfo'):
                yield cls._load_metainfo(given)


def _find_numbers_of_classes(node: object) -> Iterator[int]:
    """Find the numbers of classes of a model's heads."""
    if isinstance(node, dict):
        if type_name(node).endswith('Head'):
            if isinstance(node.get('num_classes'), int):
                yield node['num_classes']
            if node.get('out_channels') == 1:  # tells two classes apart, with a sigmoid
                yield 2
            if 'num_things_classes' in node:  # panoptic
                yield node['num_things_classes'] + node.get('num_stuff_classes', 0)
        for child in node.values():
            yield from _find_numbers_of_classes(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _find_numbers_of_classes(child)

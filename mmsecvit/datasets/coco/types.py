"""Name the checked data set and metric in configs, and tell which classes read COCO's format.

mmdet is imported where it is used.
"""

import inspect
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, METRICS

from ..nodes import find_class, find_datasets, find_nodes, type_name


def build_dataset(*args: Any, **kwargs: Any) -> Any:
    """Build a :class:`mmsecvit.datasets.coco.checked.CheckedCocoDataset`."""
    from .checked import CheckedCocoDataset

    return CheckedCocoDataset(*args, **kwargs)


def build_metric(*args: Any, **kwargs: Any) -> Any:
    """Build a :class:`mmsecvit.datasets.coco.checked.CheckedCocoMetric`."""
    from .checked import CheckedCocoMetric

    return CheckedCocoMetric(*args, **kwargs)


DATASETS.register_module(name='CheckedCocoDataset', module=build_dataset)
METRICS.register_module(name='CheckedCocoMetric', module=build_metric)


def set_coco_types(cfg: Config) -> list[str]:
    """Let a config name the checked data set and metric where it names mmdet's.

    Args:
        cfg: Config of a whole experiment. ``CocoDataset`` becomes ``CheckedCocoDataset``. In
            splits whose data sets all read COCO's format, ``CocoMetric`` becomes
            ``CheckedCocoMetric``.

    Returns:
        The settings that were changed.
    """
    if cfg.get('default_scope') != 'mmdet':
        return []
    changed = []
    for split in ('train', 'val', 'test'):
        loader, evaluator = f'{split}_dataloader', f'{split}_evaluator'
        datasets = [dataset for _, dataset in find_datasets(cfg.get(loader), loader)]
        nodes = [*find_nodes(cfg.get(loader), loader, _is_mmdets_dataset)]
        if datasets and all(map(coco_class, datasets)):
            nodes += find_nodes(cfg.get(evaluator), evaluator, _is_mmdets_metric)
        for setting, node in nodes:
            node['type'] = f'Checked{type_name(node)}'
            changed.append(f'{setting}.type={node["type"]!r}')
    return changed


def _is_mmdets_dataset(node: ConfigDict) -> bool:
    if type_name(node) != 'CocoDataset':
        return False
    from mmdet.datasets import CocoDataset

    return find_class(node, DATASETS, 'mmdet') is CocoDataset


def _is_mmdets_metric(node: ConfigDict) -> bool:
    if type_name(node) != 'CocoMetric':
        return False
    from mmdet.evaluation import CocoMetric

    return find_class(node, METRICS, 'mmdet') is CocoMetric


def coco_class(dataset: ConfigDict) -> Any:
    """Return the class of a data set that loads files as mmdet's ``CocoDataset`` does, or None.

    Not all that inherit from it do: those of LVIS and Objects365 number classes by their ids.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.api_wrappers import COCO

    from .checked import CheckedCocoDataset

    cls = find_class(dataset, DATASETS, 'mmdet')
    if not (inspect.isclass(cls) and issubclass(cls, CocoDataset)):
        return None
    found: Any = cls
    loads = (CocoDataset.load_data_list, CheckedCocoDataset.load_data_list)
    return found if found.COCOAPI is COCO and found.load_data_list in loads else None


def classes_of(dataset: ConfigDict) -> list[str] | None:
    """Return the classes of a data set in COCO's format, or None if its config does not tell."""
    cls = coco_class(dataset)
    classes = cls and cls._load_metainfo(dataset.get('metainfo')).get('classes')
    return list(classes) if isinstance(classes, (list, tuple)) else None


def joins_img_prefix(cls: type) -> bool:
    """Return whether a class finds images under ``data_prefix.img``, as mmdet's does."""
    from mmdet.datasets import CocoDataset

    return getattr(cls, 'parse_data_info', None) is CocoDataset.parse_data_info


def keeps_order(cls: type) -> bool:
    """Return whether a data set or metric of this class gives the label i to ``classes[i]``.

    mmdet's `CocoDataset` and `CocoMetric` count as such, since checked classes replace them.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.evaluation import CocoMetric

    from .checked import CheckedCocoDataset, CheckedCocoMetric

    checked = (CheckedCocoDataset, CheckedCocoMetric)
    return cls in (CocoDataset, CocoMetric) or issubclass(cls, checked)

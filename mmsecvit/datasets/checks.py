"""Check the data that a config names before anything is built."""

from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from .class_folders import check_class_folders
from .coco import check_classes
from .findings import DataError, must_exist
from .nodes import find_datasets, is_local

# A mask head is not among them: masks may have fewer classes than boxes.
HEADS = ('bbox_head', 'decode_head', 'auxiliary_head')


def check_data(cfg: Config, splits: Iterable[str]) -> None:
    """Raise an error unless the data of a config exists and fits the config.

    This checks data on local disks: that data roots, folders of images and of segmentation maps,
    and annotation files of data sets and evaluators exist; that annotation files in COCO's format
    have all classes of the data set; and that, in a classifier's folders of classes, each has an
    image. (Other data sets of classifiers may download themselves.)

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` to check.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        DataError: If an annotation file has no list of categories or does not have one of the
            classes, if the folder of a class has no image, or if a head has another number of
            classes than ``metainfo.classes`` of the data set.
    """
    if cfg.get('default_scope') not in ('mmdet', 'mmseg', 'mmpretrain'):
        return
    check = check_class_folders if cfg.default_scope == 'mmpretrain' else _check_dataset
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for setting, dataset in find_datasets(loader, f'{split}_dataloader'):
            check(setting, dataset)
            _check_heads(cfg.get('model') or {}, 'model', setting, dataset)
        evaluator = cfg.get(f'{split}_evaluator') or {}
        for i, metric in enumerate(evaluator if isinstance(evaluator, list) else [evaluator]):
            index = f'.{i}' if isinstance(evaluator, list) else ''
            if is_local(metric, metric.get('ann_file')):
                must_exist(f'{split}_evaluator{index}.ann_file', metric.ann_file)


def _check_dataset(setting: str, dataset: ConfigDict) -> None:
    root = dataset.get('data_root') or ''
    if not is_local(dataset, root or '.'):
        return
    if root:
        must_exist(f'{setting}.data_root', root)
    prefixes = dataset.get('data_prefix') or {}
    for name, prefix in prefixes.items() if isinstance(prefixes, dict) else ():
        must_exist(f'{setting}.data_prefix.{name}', Path(root, prefix))
    if not dataset.get('ann_file'):
        return
    ann_file = Path(root, dataset.ann_file)
    must_exist(f'{setting}.ann_file', ann_file)
    if dataset.type in ('CocoDataset', 'mmdet.CocoDataset'):
        with DATASETS.switch_scope_and_registry('mmdet') as registry:
            cls = registry.get(dataset.type)
        check_classes(setting, ann_file, cls._load_metainfo(dataset.get('metainfo'))['classes'])


def _check_heads(node: object, name: str, setting: str, dataset: ConfigDict) -> None:
    classes = (dataset.get('metainfo') or {}).get('classes')
    if not isinstance(classes, (list, tuple)):
        return  # The data set has classes of its own, or reads them from a file.
    if isinstance(node, dict):
        given = node.get('num_classes')
        if name.split('.')[-1] in HEADS and given not in (None, len(classes)):
            raise DataError(
                f'{name}.num_classes must be the number of classes in {setting}.metainfo, '
                f'{len(classes)}, got {given}'
            )
        for key, child in node.items():
            _check_heads(child, f'{name}.{key}', setting, dataset)
    elif isinstance(node, (list, tuple)):
        for child in node:
            _check_heads(child, name, setting, dataset)

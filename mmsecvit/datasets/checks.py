"""Look for the data of a config before anything is built on it."""

import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

CATEGORIES = b'"categories"'
LONGEST_LIST = 1 << 24  # bytes: sixteen times LVIS's 1,203 categories
# mmpretrain's data sets with a folder for each class, and the files that count as its images.
CLASS_FOLDERS = ('CustomDataset', 'ImageNet', 'ImageNet21k')
IMAGES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
# Masks may be of fewer classes than boxes.
HEADS = ('bbox_head', 'decode_head', 'auxiliary_head')


def check_data(cfg: Config, splits: Iterable[str]) -> None:
    """Raise an error if the files of a config's data sets are not there.

    Looks at what is on local disks: the data roots, the folders of images and of segmentation
    maps, the annotation files of data sets and evaluators, for COCO's format, whether these
    files have all the classes of the data set, and, for classifiers' folders of classes, whether
    each has an image. (Classifiers' other data sets may download themselves.)

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test``.

    Raises:
        FileNotFoundError: If a folder or file does not exist.
        ValueError: If an annotation file has no list of categories, or lacks one of the classes,
            or the folder of a class has no image, or a head has another number of classes than
            the data set of ``metainfo.classes``.
    """
    if cfg.get('default_scope') not in ('mmdet', 'mmseg', 'mmpretrain'):
        return
    check = _check_class_folders if cfg.default_scope == 'mmpretrain' else _check_dataset
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for setting, dataset in find_datasets(loader, f'{split}_dataloader'):
            check(setting, dataset)
            _check_heads(cfg.get('model') or {}, 'model', setting, dataset)
        evaluator = cfg.get(f'{split}_evaluator') or {}
        for i, metric in enumerate(evaluator if isinstance(evaluator, list) else [evaluator]):
            index = f'.{i}' if isinstance(evaluator, list) else ''
            if is_local(metric, metric.get('ann_file')):
                _must_exist(f'{split}_evaluator{index}.ann_file', metric.ann_file)


def find_datasets(node: object, setting: str) -> Iterator[tuple[str, ConfigDict]]:
    """Find the data sets with files, which may lie inside others that repeat or join them."""
    if isinstance(node, dict):
        if not node.keys().isdisjoint(('ann_file', 'data_prefix', 'data_root')):
            yield setting, node
            return
        for name, child in node.items():
            yield from find_datasets(child, f'{setting}.{name}')
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from find_datasets(child, f'{setting}.{i}')


def _check_dataset(setting: str, dataset: ConfigDict) -> None:
    root = dataset.get('data_root') or ''
    if not is_local(dataset, root or '.'):
        return
    if root:
        _must_exist(f'{setting}.data_root', root)
    prefixes = dataset.get('data_prefix') or {}
    for name, prefix in prefixes.items() if isinstance(prefixes, dict) else ():
        _must_exist(f'{setting}.data_prefix.{name}', Path(root, prefix))
    if not dataset.get('ann_file'):
        return
    ann_file = Path(root, dataset.ann_file)
    _must_exist(f'{setting}.ann_file', ann_file)
    if dataset.type in ('CocoDataset', 'mmdet.CocoDataset'):
        with DATASETS.switch_scope_and_registry('mmdet') as registry:
            cls = registry.get(dataset.type)
        _check_classes(setting, ann_file, cls._load_metainfo(dataset.get('metainfo'))['classes'])


def _check_class_folders(setting: str, dataset: ConfigDict) -> None:
    root, split = dataset.get('data_root') or '', dataset.get('split') or ''
    known = dataset.type.removeprefix('mmpretrain.') in CLASS_FOLDERS
    if not known or not is_local(dataset, root or '.'):
        return
    if root:
        _must_exist(f'{setting}.data_root', root)
    prefix = dataset.get('data_prefix') or split
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path', '')
    folder = Path(root, prefix)
    name = 'data_prefix' if dataset.get('data_prefix') else 'split' if split else 'data_root'
    _must_exist(f'{setting}.{name}', folder)
    listed = dataset.get('ann_file') or (split and Path(root, 'meta', f'{split}.txt').exists())
    if listed or split == 'test' or not dataset.get('with_label', True):
        return
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise ValueError(
            f'{setting}.{name} must have a folder of images for each class, but {folder} has none'
        )
    images = tuple(extension.lower() for extension in dataset.get('extensions', IMAGES))
    for path in classes:
        if not any(file.name.lower().endswith(images) for file in path.rglob('*')):
            raise ValueError(
                f'{setting}.{name} must have images of each class, but there are none in {path}: '
                'fill or remove the folder'
            )


def _check_heads(node: object, name: str, setting: str, dataset: ConfigDict) -> None:
    classes = (dataset.get('metainfo') or {}).get('classes')
    if not isinstance(classes, (list, tuple)):
        return  # the data set's own, or a file's
    if isinstance(node, dict):
        own = node.get('num_classes')
        if name.split('.')[-1] in HEADS and own not in (None, len(classes)):
            raise ValueError(
                f'{name}.num_classes must be the number of classes in {setting}.metainfo, '
                f'{len(classes)}, got {own}'
            )
        for key, child in node.items():
            _check_heads(child, f'{name}.{key}', setting, dataset)
    elif isinstance(node, (list, tuple)):
        for child in node:
            _check_heads(child, name, setting, dataset)


def _check_classes(setting: str, ann_file: Path, classes: tuple[str, ...]) -> None:
    names = _read_class_names(ann_file)
    missing = [name for name in classes if name not in names]
    if missing:
        raise ValueError(
            f'{setting}.metainfo.classes must be among the categories of {ann_file}, which are '
            f'{some(names)}; got {some(missing)} besides'
        )


def some(names: list[str]) -> str:
    """List names for a message, five at most."""
    listed = ', '.join(map(repr, names[:5]))
    return listed if len(names) <= 5 else f'{listed} and {len(names) - 5} more'


def _read_class_names(ann_file: Path) -> list[str]:
    """Read the categories' names alone: the rest of COCO's annotations takes half a minute."""
    try:
        with (
            open(ann_file, 'rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            at = text.rfind(CATEGORIES)
            tail = text[at + len(CATEGORIES) : at + LONGEST_LIST] if at >= 0 else b''
        colon_and_list = tail.decode(errors='ignore').lstrip()
        categories = json.JSONDecoder().raw_decode(colon_and_list[1:].lstrip())[0]
        return [category['name'] for category in categories]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'ann_file {ann_file} has no list "categories" with names, as COCO has it'
        ) from error


def is_local(node: ConfigDict, path: str | None) -> bool:
    """Whether a setting of a data set or a metric is a path on local disks."""
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    return backend == 'local' and bool(path) and '://' not in str(path)


def _must_exist(setting: str, path: str | Path) -> None:
    if not Path(path).exists():
        raise FileNotFoundError(f'{setting} must exist, but {path} does not')

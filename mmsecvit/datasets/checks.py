"""Check the data that a config names before anything is built."""

import json
import mmap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

CATEGORIES = b'"categories"'
LONGEST_LIST = 1 << 24  # bytes: sixteen times the list of LVIS's 1,203 categories
# mmpretrain's data sets with one folder for each class, and the suffixes of their images.
CLASS_FOLDERS = ('CustomDataset', 'ImageNet', 'ImageNet21k')
IMAGES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
# A mask head is not among them: masks may have fewer classes than boxes.
HEADS = ('bbox_head', 'decode_head', 'auxiliary_head')


class DataError(ValueError):
    """The data of a config does not fit it, or cannot be read."""


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
    """Find the data sets that read files, also inside those that repeat or join data sets.

    Args:
        node: A part of a config.
        setting: Dotted name of this part.

    Yields:
        The dotted name and the config of each data set.
    """
    keys = ('ann_file', 'data_prefix', 'data_root')
    return find_nodes(node, setting, lambda child: not child.keys().isdisjoint(keys))


def find_nodes(
    node: object, setting: str, matches: Callable[[ConfigDict], bool]
) -> Iterator[tuple[str, ConfigDict]]:
    """Find the outermost dicts in a part of a config that match.

    Args:
        node: A part of a config.
        setting: Dotted name of this part.
        matches: Tells whether a dict is one of those to find.

    Yields:
        The dotted name of each dict, and the dict.
    """
    if isinstance(node, dict) and matches(node):
        yield setting, node
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from find_nodes(child, f'{setting}.{name}', matches)
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from find_nodes(child, f'{setting}.{i}', matches)


def type_name(node: dict | None) -> str:
    """Return the name, without its scope, of the class that a part of a config builds, or ''.

    Args:
        node: A part of a config. Its type is a name, with or without a scope (as in
            ``mmengine.CheckpointHook``), or, in a pure-Python config, a class.
    """
    kind = (node or {}).get('type') or ''
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.rpartition('.')[-1]


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
    known = type_name(dataset) in CLASS_FOLDERS
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
        raise DataError(
            f'{setting}.{name} must have a folder of images for each class, but {folder} has none'
        )
    images = tuple(extension.lower() for extension in dataset.get('extensions', IMAGES))
    for path in classes:
        if not any(file.name.lower().endswith(images) for file in path.rglob('*')):
            raise DataError(
                f'{setting}.{name} must have images of each class, but there are none in {path}: '
                'fill or remove the folder'
            )


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


def _check_classes(setting: str, ann_file: Path, classes: tuple[str, ...]) -> None:
    names = _read_class_names(ann_file)
    missing = [name for name in classes if name not in names]
    if missing:
        raise DataError(
            f'{setting}.metainfo.classes must be among the categories of {ann_file}, which are '
            f'{_list_some(names)}; it has no {_list_some(missing)}'
        )


def _list_some(names: list[str]) -> str:
    """List names for a message, five at most."""
    listed = ', '.join(map(repr, names[:5]))
    return listed if len(names) <= 5 else f'{listed} and {len(names) - 5} more'


def _read_class_names(ann_file: Path) -> list[str]:
    """Read only the names of the categories: reading all of COCO's annotations takes 30 s."""
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
        raise DataError(
            f'ann_file {ann_file} has no list "categories" with names, as COCO has it'
        ) from error


def is_local(node: ConfigDict, path: str | None) -> bool:
    """Tell whether a path of a data set or of a metric is on local disks."""
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    return backend == 'local' and bool(path) and '://' not in str(path)


def _must_exist(setting: str, path: str | Path) -> None:
    if not Path(path).exists():
        raise FileNotFoundError(f'{setting} must exist, but {path} does not')

"""Check the annotations of data sets in PASCAL VOC's format, an XML file for each image.

mmdet is imported where it is used.
"""

import inspect
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS

from .findings import Finding, list_some
from .nodes import find_class, find_datasets, is_local
from .samples import build_lazily, find_missing_files

METHODS = ('load_data_list', 'parse_data_info', '_parse_instance_info')  # that read the files


def find_voc_faults(cfg: Config, split: str) -> Iterator[Finding]:
    """Find what is wrong in the XML files of a split; all are read.

    Args:
        cfg: Config of a whole experiment.
        split: ``train``, ``val`` or ``test``.

    Yields:
        A finding for each kind of fault.
    """
    loader, others, lacking = f'{split}_dataloader', 0, []
    for setting, dataset in find_datasets(cfg.get(loader), loader):
        data = build_lazily(setting, dataset, 'mmdet') if _is_voc(dataset) else None
        if data is not None and not data.metainfo.get('classes'):
            message = f'{setting}.metainfo.classes must name the classes of the XML files'
            yield Finding('no classes', setting, message)
            continue
        names = None if data is None else (yield from _read_names(f'{setting}.ann_file', data))
        if data is None or names is None:
            others += 1
            continue
        classes, file = list(data.metainfo['classes']), data.ann_file
        known, total = sum(names[name] for name in set(classes)), sum(names.values())
        unknown = [name for name in names if names[name] and name not in classes]
        files = f'the XML files of {setting}.ann_file {file}'
        if known and unknown:
            message = (
                f'{setting}.metainfo.classes lacks the names of {total - known} of {total} objects '
                f'in {files}, which are left out: {list_some(unknown)}'
            )
            yield Finding('name not in classes', file, message, 'warning', total - known)
        elif unknown:
            message = (
                f'{setting}.metainfo.classes must have names of objects in {files}, which are '
                f'{list_some(unknown)}, got {list_some(classes)}'
            )
            lacking.append((file, message))
        elif not known and split == 'train':
            lacking.append((file, f'{files} must have objects'))
        others += bool(known)
    for file, message in lacking:  # Some of several data sets may be background.
        yield Finding('no object', file, message, 'warning' if others else 'error')


def _is_voc(dataset: ConfigDict) -> bool:
    """Tell whether a data set reads local files as mmdet's ``XMLDataset`` does."""
    from mmdet.datasets import XMLDataset

    cls: Any = find_class(dataset, DATASETS, 'mmdet')
    if not (inspect.isclass(cls) and issubclass(cls, XMLDataset)):
        return False
    root = dataset.get('data_root') or '.'
    file = dataset.get('ann_file')
    there = is_local(dataset, root) and isinstance(file, str) and Path(root, file).is_file()
    return there and all(getattr(cls, name) is getattr(XMLDataset, name) for name in METHODS)


def _read_names(setting: str, data: Any) -> Generator[Finding, None, Counter[str] | None]:
    """Return how often each name of an object occurs, or None if not all files can be read."""
    folder = Path(data.sub_data_root, data.ann_subdir)
    paths = [str(folder / f'{image}.xml') for image in list_from_file(data.ann_file)]
    yield from (missing := [*find_missing_files(setting, [dict(xml=p) for p in paths], 'xml')])
    names: Counter[str] = Counter()
    damaged: dict[str, str] = {}
    inverted: list[str] = []
    data.cat2label = {name: label for label, name in enumerate(data.metainfo['classes'])}
    for path in paths if not missing else ():
        try:
            root: Any = ElementTree.parse(path)
            if root.find('size') is not None:
                _ = [int(root.find(f'size/{side}').text) for side in ('width', 'height')]
            names.update(node.find('name').text for node in root.findall('object'))
            boxes = [instance['bbox'] for instance in data._parse_instance_info(root)]
        except (AttributeError, TypeError):
            damaged[path] = 'a part of an object or of the size is missing'
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            damaged[path] = str(error)
        else:
            if any(right < left or bottom < top for left, top, right, bottom in boxes):
                inverted.append(path)
    for path, reason in [*damaged.items()][:1]:
        message = (
            f'{setting} {data.ann_file} must name XML files as VOC has them, but {len(damaged)} of '
            f'{len(paths)} are not: {path} ({reason})'
        )
        yield Finding.of([*damaged], 'damaged XML', path, message)
    if inverted:
        message = (
            f'{setting} {data.ann_file} names {len(inverted)} XML files with an xmin or ymin above '
            f'xmax or ymax, such as {inverted[0]}'
        )
        yield Finding.of(inverted, 'inverted box', inverted[0], message, 'warning')
    return None if missing or damaged else names

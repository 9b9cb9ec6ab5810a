"""Find faults of annotation files in COCO's format that a config names."""

import inspect
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS

from ..findings import DataError, Finding, list_some, must_be_path
from ..nodes import find_class, find_datasets, find_nodes, type_name
from .content import mend_coco
from .files import has_annotations, read_class_names, read_coco
from .masks import to_number
from .types import classes_of, coco_class, joins_img_prefix, keeps_order


def find_coco_faults(
    setting: str, dataset: ConfigDict, thorough: bool = False
) -> Iterator[Finding]:
    """Find what is wrong in the annotation file of a data set.

    Args:
        setting: Dotted name of the data set in the config.
        dataset: Config of the data set. Nothing is found if it does not read COCO's format.
        thorough: Whether to read the whole file. Otherwise only its categories are read, since the
            data set checks the rest when it is built.

    Yields:
        A finding for each kind of fault.
    """
    cls = coco_class(dataset)
    if cls is None or not (file := _ann_file_of(setting, dataset)).is_file():
        return
    classes = classes_of(dataset)
    again = [name for name, count in Counter(classes or ()).items() if count > 1]
    if again:
        message = f'{setting}.metainfo.classes must name each class once, got twice: '
        message += list_some(again)
        yield Finding('class twice', str(file), message, count=len(again))
    prefix = dataset.get('data_prefix')
    if 'img' not in (prefix or ()) and joins_img_prefix(cls):
        message = f'{setting}.data_prefix must have img, the folder of the images, got {prefix}'
        yield Finding('data_prefix', str(file), message)
    try:
        names = read_class_names(file)
        yield from _compare_names(f'{setting}.metainfo.classes', cls, file, names, classes)
        if thorough and not set(classes or ()).difference(names):
            content = read_coco(file, f'{setting}.ann_file')
            pipeline = dataset.get('pipeline')
            masks = any(find_nodes(pipeline, '', lambda x: x.get('with_mask', False)))
            use: Any = 'predict' if dataset.get('test_mode') else 'train'
            yield from mend_coco(content, f'{setting}.ann_file', str(file), classes, masks, use)
    except DataError as error:
        yield Finding('no COCO file', str(file), str(error))


def find_lack_of_objects(cfg: Config) -> Iterator[Finding]:
    """Find out whether none of the files to train with has annotations.

    One of several files may have none: its images are background, or unlabeled.

    Args:
        cfg: Config of a whole experiment.

    Yields:
        A finding if there is nothing to train with.
    """
    datasets = dict(find_datasets(cfg.get('train_dataloader'), 'train_dataloader'))
    if not datasets or not all(map(coco_class, datasets.values())):
        return
    files = {f'{name}.ann_file': _ann_file_of(name, node) for name, node in datasets.items()}
    if all(file.is_file() and not has_annotations(file) for file in files.values()):
        named = ' or '.join(f'{setting} {file}' for setting, file in files.items())
        file = str(next(iter(files.values())))
        yield Finding('no annotations', file, f'{named} must have annotations to train with')


def find_evaluator_faults(cfg: Config, split: str, thorough: bool = False) -> Iterator[Finding]:
    """Find evaluators whose annotation file has other images or classes than the data set.

    Args:
        cfg: Config of a whole experiment.
        split: ``val`` or ``test``.
        thorough: Whether to read a file also if it is the data set's.

    Yields:
        A finding for each kind of fault.
    """
    from mmdet.evaluation import CocoMetric

    loader, evaluator = f'{split}_dataloader', f'{split}_evaluator'
    datasets = dict(find_datasets(cfg.get(loader), loader))
    own = cfg.get(evaluator) if isinstance(cfg.get(evaluator), dict) else None
    if not datasets or not all(map(coco_class, datasets.values())):
        return
    if type_name(own) == 'MultiDatasetsEvaluator':
        return  # It has a metric for each data set.
    files = {setting: _ann_file_of(setting, dataset) for setting, dataset in datasets.items()}
    if not all(map(Path.is_file, files.values())):
        return
    for setting, metric in find_nodes(cfg.get(evaluator), evaluator, lambda x: 'ann_file' in x):
        cls, file = find_class(metric, METRICS, 'mmdet'), Path(metric.ann_file or '')
        if not (inspect.isclass(cls) and issubclass(cls, CocoMetric) and file.is_file()):
            continue
        try:
            names = read_class_names(file)
            for name, dataset in datasets.items():
                classes = classes_of(dataset)
                yield from _compare_names(f'{name}.metainfo.classes', cls, file, names, classes)
            if not metric.get('format_only'):
                yield from _compare_images(f'{setting}.ann_file', file, files)
            if thorough:
                yield from _check_scored(setting, metric, file, datasets)
        except DataError as error:
            yield Finding('no COCO file', str(file), str(error))


def _check_scored(
    setting: str, metric: ConfigDict, file: Path, datasets: dict[str, ConfigDict]
) -> Iterator[Finding]:
    """Check a whole file as a metric does; what is not an error was said of the data set's file."""
    classes = [name for dataset in datasets.values() for name in classes_of(dataset) or ()]
    content = read_coco(file, f'{setting}.ann_file')
    masks = 'segm' in metric.get('metric', '')
    use: Any = 'predict' if metric.get('format_only') else 'score'
    findings = mend_coco(content, f'{setting}.ann_file', str(file), classes, masks, use)
    known = {os.path.realpath(_ann_file_of(name, node)) for name, node in datasets.items()}
    other = os.path.realpath(file) not in known
    yield from (finding for finding in findings if other or finding.level == 'error')


def _ann_file_of(setting: str, dataset: ConfigDict) -> Path:
    must_be_path(f'{setting}.ann_file', dataset.get('ann_file'))
    return Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')


def _compare_names(
    setting: str, cls: type, file: Path, names: list[str], classes: list[str] | None
) -> Iterator[Finding]:
    missing = [name for name in classes or () if name not in names]
    ordered = [name for name in names if name in (classes or ())]
    if missing:
        message = (
            f'{setting} must be among the categories of {file}, which are {list_some(names)}; '
            f'it has no {list_some(missing)}'
        )
        yield Finding('class missing', str(file), message, count=len(missing))
    elif ordered != (classes or []) and not keeps_order(cls):
        message = (
            f'{setting} must have the order of the categories of {file}, {list_some(ordered)}, '
            f'since a {cls.__name__} numbers classes in that order, got {list_some(classes or [])}'
        )
        yield Finding('order of classes', str(file), message)


def _compare_images(setting: str, file: Path, others: dict[str, Path]) -> Iterator[Finding]:
    """Compare the images of an evaluator's file with those of other files of data sets."""
    if [os.path.realpath(other) for other in others.values()] == [os.path.realpath(file)]:
        return
    scored = _read_images(setting, file)
    predicted: dict[Any, tuple] = {}
    for name, other in others.items():
        images = _read_images(f'{name}.ann_file', other)
        again = [str(image) for image in images if image in predicted]
        if again:
            message = (
                f'{name}.ann_file {other} must have other image ids than the files before it in '
                f'the loader, but {len(again)} are the same ({list_some(again)})'
            )
            yield Finding('image ids of several files', str(other), message, count=len(again))
            return
        predicted |= images
    lost = [image for image in predicted if image not in scored]
    added = [image for image in scored if image not in predicted]
    if lost and set(map(str, lost)) == set(map(str, added)):
        where = ', '.join(f'{name}.ann_file {other}' for name, other in others.items())
        message = (
            f'{setting} {file} must have the image ids of {where} as they are there, numbers or '
            f'strings, but has {added[0]!r} for {lost[0]!r}'
        )
        yield Finding('type of image ids', str(file), message, count=len(lost))
        return
    kinds = {
        'are not in it': lost,
        'have another file_name or size': [
            image
            for image in predicted
            if image in scored and _differ(scored[image], predicted[image])
        ],
        'are only in it': added,
    }
    faults = [
        f'{len(ids)} {what} ({list_some(list(map(str, ids)))})'
        for what, ids in kinds.items()
        if ids
    ]
    if faults:
        where = ', '.join(f'{name}.ann_file {other}' for name, other in others.items())
        message = f'{setting} {file} must have the images of {where}: {", ".join(faults)}'
        count = sum(map(len, kinds.values()))
        yield Finding('images of the evaluator', str(file), message, count=count)


def _differ(one: tuple, other: tuple) -> bool:
    """Tell whether two images have other names or, where both are known, other sizes."""
    sizes = zip(one[1:], other[1:], strict=True)
    return one[0] != other[0] or any(abs(a - b) > 0 for a, b in sizes)


def _read_images(setting: str, file: Path) -> dict[Any, tuple]:
    """Return the name and the size of each image of a file, NaN if unknown, by its id."""
    content = read_coco(file, setting)
    try:
        return {
            image['id']: (
                str(image['file_name']).replace('\\', '/').rpartition('/')[-1],
                to_number(image.get('height')),
                to_number(image.get('width')),
            )
            for image in content['images']
        }
    except (TypeError, KeyError, AttributeError):
        message = (
            f'{setting} {file} must have a list "images" with ids and file names, as COCO has it'
        )
        raise DataError(message) from None

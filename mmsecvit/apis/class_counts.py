"""Check that a config says everywhere the same of its classes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS

from ..datasets import find_datasets, type_name
from ..datasets.nodes import find_class, find_nodes
from .config import ConfigError

# Heads that have one output for each class, by toolbox.
HEADS = dict(
    mmdet=('bbox_head', 'mask_head', 'mask_iou_head', 'point_head'),
    mmseg=('decode_head', 'auxiliary_head'),
    mmpretrain=('head',),
)

# Heads that look for something else, here for edges.
OTHER_CLASSES = ('STDCHead',)
# mmpretrain's heads for one label an image.
SOFTMAX_HEADS = ('LinearClsHead', 'StackedLinearClsHead', 'VisionTransformerClsHead')


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        setting: Where the config has them.
        names: Their names.
        things: How many of them are things, which have boxes; all except in panoptic data sets.
        given: Whether the config names them. Otherwise they are those of the data set's class,
            whose labels may be used without its names.
    """

    setting: str
    names: tuple[str, ...]
    things: int
    given: bool


def check_class_counts(cfg: Config, splits: Iterable[str]) -> list[str]:
    """Check names and numbers of classes in data sets, heads, preprocessors and metrics.

    Returns:
        Sentences for the log on what is suspicious.

    Raises:
        ConfigError: If they do not fit each other.
    """
    scope = cfg.get('default_scope')
    if scope not in HEADS:
        return []
    messages: list[str] = []
    model = cfg.get('model') or {}
    heads = list(find_heads(model, 'model', HEADS[scope]))
    for classes in find_classes_of_splits(cfg, splits):
        for setting, head in heads:
            messages += _compare(setting, head, classes, scope)
        _check_things(model, 'model', classes)
        _check_order(cfg, classes)
    if scope == 'mmseg':
        for setting, head in heads:
            _check_segmentation_loss(setting, head)
    if scope == 'mmpretrain':
        _check_classifier(cfg, splits)
    return list(dict.fromkeys(messages))


def find_classes(setting: str, dataset: ConfigDict, scope: str | None) -> Classes | None:
    """Return the classes of a data set, or None if only its files tell them.

    Raises:
        ConfigError: If the classes are a string that is no file.
    """
    metainfo = dataset.get('metainfo') or {}
    name = 'classes' if dataset.get('classes') else 'metainfo.classes'
    names = dataset.get('classes') or metainfo.get('classes')
    if isinstance(names, str):
        if '://' in names:
            return None
        if not Path(names).expanduser().is_file():
            raise ConfigError(
                f'{setting}.{name} must be a list of names, or a file with a name on each line, '
                f'got the string {names!r}; one class is written as [{names!r}]'
            )
        names = list_from_file(str(Path(names).expanduser()))
    cls = find_class(dataset, DATASETS, scope)
    own = getattr(cls, 'METAINFO', {})
    things = metainfo.get('thing_classes', own.get('thing_classes'))
    given = isinstance(names, (list, tuple))
    names = names if given else own.get('classes')
    # A data set that gives the names to the network has no fixed number of outputs. mmdet's videos
    # have more classes than trackers look for.
    bases = [base.__name__ for base in getattr(cls, '__mro__', ())]
    video = not given and 'BaseVideoDataset' in bases
    if not isinstance(names, (list, tuple)) or dataset.get('return_classes') or video:
        return None
    where = f'{setting}.{name}' if given else f'{setting} ({cls.__name__} without {name})'
    return Classes(where, tuple(names), len(names if things is None else things), given)


def find_classes_of_splits(cfg: Config, splits: Iterable[str]) -> Iterator[Classes]:
    """Yield the classes of each data set, except where only its files tell them."""
    for split in splits:
        name = f'{split}_dataloader'
        for setting, dataset in find_datasets(cfg.get(name) or {}, name):
            classes = find_classes(setting, dataset, cfg.get('default_scope'))
            if classes:
                yield classes


def find_heads(
    node: object, setting: str, names: tuple[str, ...]
) -> Iterator[tuple[str, ConfigDict]]:
    """Yield heads with a number of classes, also from lists and from models inside a model.

    Raises:
        ConfigError: If a number of classes is a string, or is not an integer.
    """
    if isinstance(node, dict):
        number = node.get('num_classes') if setting.split('.')[-1] in names else None
        if isinstance(number, (float, str)):
            raise ConfigError(f'{setting}.num_classes must be an integer, got {number!r}')
        if isinstance(number, int):
            yield setting, node
        for name, child in node.items():
            yield from find_heads(child, f'{setting}.{name}', names)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from find_heads(child, setting, names)


def _compare(setting: str, head: ConfigDict, classes: Classes, scope: str) -> list[str]:
    """Compare a head with a data set."""
    is_mask = scope == 'mmdet' and not setting.endswith('bbox_head')
    if is_mask and head.get('class_agnostic'):
        return []
    wanted = classes.things if scope == 'mmdet' else len(classes.names)
    if head.num_classes == wanted or type_name(head) in OTHER_CLASSES:
        return []
    # One output tells two classes apart: mmseg does not use num_classes then.
    if scope == 'mmseg' and wanted == 2 and count_outputs(head) == 1:
        return []
    message = f'be the number of classes in {classes.setting}, {wanted}, but is {head.num_classes}'
    # Detectors get labels from names. Others get numbers, from files that may use fewer classes.
    # Outputs that no label uses do no harm, except where a metric looks up the predicted class.
    unused = head.num_classes > wanted and (is_mask or scope == 'mmpretrain')
    if unused or not (classes.given or scope == 'mmdet'):
        return [f'{setting}.num_classes should {message}.']
    raise ConfigError(f'{setting}.num_classes must {message}')


def _check_things(node: object, setting: str, classes: Classes) -> None:
    """Check the heads that count things and stuff apart."""
    if not isinstance(node, dict):
        return
    wanted = dict(num_things_classes=classes.things)
    wanted['num_stuff_classes'] = len(classes.names) - classes.things
    if all(isinstance(node.get(name), int) for name in wanted):
        for name, number in wanted.items():
            if node[name] != number:
                kind = name.split('_')[1]
                raise ConfigError(
                    f'{setting}.{name} must be the number of classes of {kind} in '
                    f'{classes.setting}, {number}, got {node[name]}'
                )
    for name, child in node.items():
        _check_things(child, f'{setting}.{name}', classes)


def _check_order(cfg: Config, classes: Classes) -> None:
    """Raise a ConfigError if a split has the classes of training in another order."""
    for trained in find_classes_of_splits(cfg, ['train']):
        same = sorted(trained.names) == sorted(classes.names)
        if same and trained.names != classes.names:
            raise ConfigError(
                f'{classes.setting} must have the order of {trained.setting}, '
                f'{list(trained.names)}, got {list(classes.names)}'
            )


def count_outputs(head: ConfigDict) -> int:
    """Return the number of outputs of a segmenter's head."""
    return head.get('out_channels') or head.num_classes


def _check_segmentation_loss(setting: str, head: ConfigDict) -> None:
    """Raise a ConfigError if softmax has one channel."""
    losses = head.get('loss_decode') or dict(type='CrossEntropyLoss')
    losses = losses if isinstance(losses, (list, tuple)) else [losses]
    softmax = [
        type_name(loss) == 'CrossEntropyLoss' and not loss.get('use_sigmoid') for loss in losses
    ]
    if count_outputs(head) == 1 and all(softmax):
        raise ConfigError(
            f'{setting}.num_classes must be at least 2 with softmax, which gives 1 for the only '
            f'class whatever it sees, got {head.num_classes} with one output: count the background '
            'as a class, or, for two classes, set out_channels=1 and loss_decode.use_sigmoid=True'
        )


def _check_classifier(cfg: Config, splits: Iterable[str]) -> None:
    """Compare the head of a classifier with its preprocessor and its metrics."""
    model = cfg.get('model') or {}
    head = model.get('head') or {}
    num_classes = head.get('num_classes') if isinstance(head, dict) else None
    if not isinstance(num_classes, int):
        return
    loss = head.get('loss') or {}
    softmax = type_name(loss) in ('', 'CrossEntropyLoss', 'LabelSmoothLoss')
    softmax &= type_name(head) in SOFTMAX_HEADS and not loss.get('use_sigmoid')
    if num_classes == 1 and softmax:
        raise ConfigError(
            'model.head.num_classes must be at least 2 with softmax, which gives 1 for the only '
            'class whatever it sees, got 1'
        )
    inside = model.get('data_preprocessor')
    setting = 'model.data_preprocessor' if inside else 'data_preprocessor'
    preprocessor = inside or cfg.get('data_preprocessor') or {}
    given = preprocessor.get('num_classes')
    mixes = (preprocessor.get('batch_augments') or model.get('train_cfg') or {}).get('augments')
    one_hot = preprocessor.get('to_onehot') or ('train' in splits and mixes)
    if one_hot and given not in (None, num_classes):
        raise ConfigError(
            f'{setting}.num_classes must be that of model.head, {num_classes}, since it makes '
            f'vectors of the labels, got {given}'
        )
    for split in splits:
        evaluator = f'{split}_evaluator'
        for name, metric in find_nodes(cfg.get(evaluator), evaluator, lambda x: 'topk' in x):
            topk = metric.topk or 1
            if max(topk if isinstance(topk, (list, tuple)) else [topk]) > num_classes:
                raise ConfigError(
                    f'{name}.topk must be at most model.head.num_classes, {num_classes}, got {topk}'
                )

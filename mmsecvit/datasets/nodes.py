"""Find what a config names: data sets, loaders, types."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import Registry

CHECKED = ('CheckedCocoDataset', 'CheckedCocoMetric')


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


def type_name(node: object) -> str:
    """Return the name, without its scope, of the class that a part of a config builds, or ''.

    Args:
        node: A part of a config. Of a dict, the type is a name, with or without a scope (as in
            ``mmengine.CheckpointHook``), or, in a pure-Python config, a class. Other parts, such as
            a transform that is a function, build nothing.
    """
    kind = (node.get('type') if isinstance(node, dict) else None) or ''
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.rpartition('.')[-1]


def find_class(node: dict, registry: Registry, scope: str | None) -> Any:
    """Return what a part of a config builds, a class or function, or None if it is unknown.

    Args:
        node: A part of a config, whose type is a name or a class.
        registry: Where a name is looked up.
        scope: The config's default scope.
    """
    kind = node.get('type')
    if not isinstance(kind, str):
        return kind
    if type_name(node) in CHECKED:  # functions are registered, which import mmdet
        return getattr(import_module('mmsecvit.datasets.coco.checked'), type_name(node))
    with registry.switch_scope_and_registry(scope) as scoped:
        return scoped.get(kind)


def is_local(node: ConfigDict, path: str | None) -> bool:
    """Tell whether a path of a data set or of a metric is on local disks."""
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    return backend == 'local' and bool(path) and '://' not in str(path)

"""Build the classifiers of the paper by name, from the configs of the package."""

import re
from collections.abc import Sequence
from fnmatch import filter as match
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseModel

from ..checkpoints import (
    CheckpointReader,
    check_fit,
    extract_state_dict,
    from_released,
    is_released,
)
from ..errors import InputError

PACKAGE = Path(__file__).parents[1]
# Of an installed package, and of a source tree that is only on Python's path.
CONFIGS = (PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs')
# The networks of Table 8; baselines and ablations have other names.
NAMES = re.compile(r'(sec_?[a-z]+_[a-z\d])_in1k\.py')


def find_configs() -> Path:
    """Return the folder of the package's configs.

    Raises:
        FileNotFoundError: If the package was not installed and is not in its source tree.
    """
    folder = next((folder for folder in CONFIGS if folder.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f'mmsecvit must be installed to find its configs (pip install -e .), but {CONFIGS[0]} '
            'is absent'
        )
    return folder


def _list_configs() -> dict[str, Path]:
    """Return the config of each network of Table 8 by the network's name."""
    folder = find_configs()
    found = ((NAMES.fullmatch(path.name), path) for path in sorted(folder.glob('*.py')))
    return {name[1]: path for name, path in found if name}


def list_models(
    pattern: str | None = None, exclude_patterns: Sequence[str] | None = None
) -> list[str]:
    """List the names that :func:`get_model` knows, like mmpretrain's function of this name.

    Args:
        pattern: Beginning of the names, with or without wildcards, such as ``secvit`` or
            ``*swin``. Defaults to all names.
        exclude_patterns: Beginnings of names to leave out, in the same way. Defaults to none.

    Returns:
        The names, sorted.

    Raises:
        ValueError: If ``exclude_patterns`` is one pattern instead of several.
    """
    if isinstance(exclude_patterns, str):
        raise InputError(f'exclude_patterns must be a list of patterns, got {exclude_patterns!r}')
    all_names = _list_configs()
    names = set(match(all_names, f'{pattern or ""}*'))
    for excluded in exclude_patterns or ():
        names -= set(match(all_names, f'{excluded}*'))
    return sorted(names)


def get_model(
    name: str,
    pretrained: str | Path | bool = False,
    device: str | torch.device | None = None,
    trust: bool = False,
    **overrides: Any,
) -> BaseModel:
    """Build a classifier of Table 8, by default for ImageNet's 1,000 classes.

    The model comes from ``configs/NAME_in1k.py``. mmpretrain's inferencers take it like a model
    of mmpretrain's own ``get_model``.

    Args:
        name: One of :func:`list_models`.
        pretrained: Checkpoint of this classifier, a file or an http(s) address, or a file that
            the authors released. Defaults to False: the weights are random.
        device: Device of the model. Defaults to None: the CPU.
        trust: Whether to execute code that ``pretrained``, or a checkpoint that ``overrides``
            name, may hold. Defaults to False.
        **overrides: Changes of the model's config, which are merged into it as in mmpretrain's
            ``get_model``: ``backbone=dict(out_indices=(0, 1, 2, 3))``,
            ``head=dict(num_classes=10)``. If a neck or head is changed, those of its weights
            that have other shapes than in the checkpoint stay random.

    Returns:
        mmpretrain's ``ImageClassifier`` in eval mode.

    Raises:
        ValueError: If there is no such network, ``pretrained`` is True, or the checkpoint does
            not belong to this network.
        FileNotFoundError: If there is no such checkpoint, or the package was not installed and is
            not in its source tree.
        ImportError: If mmpretrain is not installed.

    Example:
        >>> import mmsecvit
        >>> mmsecvit.list_models('secvit_*')
        ['secvit_b', 'secvit_l', 'secvit_s', 'secvit_t']
        >>> model = mmsecvit.get_model('secvit_t')
        >>> model(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    configs = _list_configs()
    if name not in configs:
        raise InputError(f'name must be one of {", ".join(sorted(configs))}, got {name!r}')
    if pretrained is True:
        raise InputError(
            'pretrained must be a checkpoint or False, got True: no weights are hosted'
        )
    reader = CheckpointReader(trust)
    checkpoint = reader.read(pretrained) if pretrained else {}
    from mmpretrain.apis import get_model as build

    # The mixing of images is part of our training, not of the network.
    model = build(configs[name], **{'train_cfg': None, **overrides})
    if not pretrained:
        with reader.serving_mmengine():
            _init_quietly(model)
        return model.to(device)
    changed = tuple(f'{part}.' for part in overrides if part != 'backbone')
    try:
        weights = extract_state_dict(checkpoint, pretrained)
        missing, unused = _load(model, weights, changed)
    except ValueError as error:
        raise InputError(f'checkpoint {pretrained} is not of {name}: {error}') from None
    print_log(
        f'Loaded {name} from {pretrained}; not in the file: {", ".join(missing) or "nothing"}; '
        f'not used of it: {", ".join(unused) or "nothing"}',
        logger='current',
    )
    meta = checkpoint.get('meta') or {}
    model._dataset_meta = meta.get('dataset_meta', model._dataset_meta)
    return model.to(device)


def _init_quietly(model: BaseModel) -> None:
    """Initialize the weights without mmengine's log line for each of them."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def _load(
    model: BaseModel, weights: dict[str, torch.Tensor], changed: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Load the weights that fit of the parts in ``changed``, and all weights of the others.

    Returns:
        The keys that the checkpoint lacks, and its keys that were not used.

    Raises:
        ValueError: If weights of the other parts are missing or have another shape.
    """
    if is_released(weights):
        weights = from_released(weights)
    own = model.state_dict()
    optional = tuple(f'backbone.{key}' for key in model.backbone.optional_weights())
    weights = {
        key: value
        for key, value in weights.items()
        if not key.startswith(changed) or (key in own and own[key].shape == value.shape)
    }
    check_fit(own, weights, (*changed, *optional))
    return model.load_state_dict(weights, strict=False)

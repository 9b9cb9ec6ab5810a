"""The classifiers of the paper by name, as data, and how to build them."""

from collections.abc import Sequence
from fnmatch import filter as match
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.model import BaseModel

from ..checkpoints import (
    check_fit,
    extract_state_dict,
    from_released,
    is_released,
    read_checkpoint,
)


def _classifier(backbone: dict, in_channels: int, neck: dict | None = None) -> dict:
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            num_classes=1000,
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True,
        ),
        backbone=dict(backbone, out_indices=(3,)),
        neck=neck or dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=in_channels),
    )


def _secvit(arch: str, in_channels: int) -> dict:
    return _classifier(
        dict(type='SecViT', arch=arch, variant='released'),
        in_channels=1024,
        neck=dict(type='SecViTNeck', in_channels=in_channels),
    )


# Table 8. Nobody hosts weights of these names yet: `pretrained` of get_model takes a file.
NETWORKS = {
    'secvit_t': _secvit('tiny', 512),
    'secvit_s': _secvit('small', 512),
    'secvit_b': _secvit('base', 512),
    'secvit_l': _secvit('large', 640),
    'sec_swin_t': _classifier(dict(type='SECSwin', arch='tiny'), 768),
    'sec_swin_s': _classifier(dict(type='SECSwin', arch='small'), 768),
    'sec_fastervit_0': _classifier(dict(type='SECFasterViT', arch='0'), 512),
    'sec_fastervit_1': _classifier(dict(type='SECFasterViT', arch='1'), 640),
}

# What images and classes the networks take: mmpretrain's inferencers ask a model's config.
IMAGENET = dict(
    type='ImageNet',
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(
            type='ResizeEdge',
            scale=256,
            edge='short',
            backend='pillow',
            interpolation='bicubic',
        ),
        dict(type='CenterCrop', crop_size=224),
        dict(type='PackInputs'),
    ],
)


def list_models(
    pattern: str | None = None, exclude_patterns: Sequence[str] | None = None
) -> list[str]:
    """List the names that :func:`get_model` knows, as mmpretrain's function of this name does.

    Args:
        pattern: Beginning of the names, with or without wildcards, such as ``secvit`` or
            ``*swin``. Defaults to all.
        exclude_patterns: Beginnings of names to leave out, in the same way. Defaults to none.

    Returns:
        The names, sorted.

    Raises:
        ValueError: If ``exclude_patterns`` is one pattern instead of several.
    """
    if isinstance(exclude_patterns, str):
        raise ValueError(f'exclude_patterns must be a list of patterns, got {exclude_patterns!r}')
    names = set(match(NETWORKS, f'{pattern or ""}*'))
    for excluded in exclude_patterns or ():
        names -= set(match(NETWORKS, f'{excluded}*'))
    return sorted(names)


def get_model(
    name: str,
    pretrained: str | Path | bool = False,
    device: str | torch.device | None = None,
    trust: bool = False,
    **overrides: Any,
) -> BaseModel:
    """Build a classifier, by default for ImageNet's 1,000 classes, as of Table 8.

    The model can be given to mmpretrain's inferencers, as one of its own ``get_model``.

    Args:
        name: One of :func:`list_models`.
        pretrained: Checkpoint of this classifier, a file or an http(s) address; the authors'
            released ones as they are. Defaults to False: the weights are random.
        device: Where the model goes. Defaults to None: the CPU.
        trust: Whether to execute code that the checkpoint may hold.
        **overrides: What to change in the model's config, merged into it as in mmpretrain's
            ``get_model``: ``backbone=dict(out_indices=(0, 1, 2, 3))``,
            ``head=dict(num_classes=10)``. Of a neck or head that is changed, weights of other
            shapes than the checkpoint's stay random.

    Returns:
        mmpretrain's ``ImageClassifier`` in eval mode.

    Raises:
        ValueError: If there is no such network, ``pretrained`` is True, or the checkpoint is
            not of this network.
        FileNotFoundError: If there is no such checkpoint.
        ImportError: If mmpretrain is not installed.

    Example:
        >>> import mmsecvit
        >>> mmsecvit.list_models('secvit_*')
        ['secvit_b', 'secvit_l', 'secvit_s', 'secvit_t']
        >>> model = mmsecvit.get_model('secvit_t')
        >>> model(torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 1000])
    """
    if name not in list_models():
        raise ValueError(f'name must be one of {", ".join(list_models())}, got {name!r}')
    if pretrained is True:
        raise ValueError(
            'pretrained must be a checkpoint or False, got True: no weights are hosted'
        )
    checkpoint = read_checkpoint(pretrained, trust=trust) if pretrained else {}
    weights = extract_state_dict(checkpoint, pretrained) if pretrained else {}
    from mmpretrain.apis import get_model as build

    config = Config(dict(model=NETWORKS[name], test_dataloader=dict(dataset=IMAGENET)))
    model = build(config, **overrides)
    if not pretrained:
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel('WARNING')  # mmengine tells of each single weight
        model.init_weights()
        logger.setLevel(level)
    else:
        changed = tuple(f'{part}.' for part in overrides if part != 'backbone')
        try:
            missing, unused = _load(model, weights, changed)
        except ValueError as error:
            raise ValueError(f'checkpoint {pretrained} is not of {name}: {error}') from None
        print_log(
            f'Loaded {name} from {pretrained}; not in the file: {", ".join(missing) or "nothing"}; '
            f'not used of it: {", ".join(unused) or "nothing"}',
            logger='current',
        )
        meta = checkpoint.get('meta', {})
        model._dataset_meta = meta.get('dataset_meta', model._dataset_meta)
    return model.to(device)


def _load(
    model: BaseModel, weights: dict[str, torch.Tensor], changed: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Load what fits of the parts in ``changed``, and of the others everything or raise.

    Returns:
        The keys that the weights lack, and those of them that were not used.
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

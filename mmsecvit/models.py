"""The classifiers of the paper by name, as data, and how to build them."""

from copy import deepcopy
from fnmatch import filter as match
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope

from .checkpoints import check_fit, from_released, is_released, read_state_dict


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


def list_models(pattern: str | None = None) -> list[str]:
    """List the names that :func:`get_model` knows.

    Args:
        pattern: Beginning of the names, with or without wildcards, such as ``secvit`` or
            ``*swin``. Defaults to all.

    Returns:
        The names, sorted.
    """
    return sorted(match(NETWORKS, f'{pattern or ""}*'))


def get_model(name: str, pretrained: str | Path | bool = False) -> BaseModel:
    """Build a classifier for ImageNet's 1,000 classes, as of Table 8.

    Args:
        name: One of :func:`list_models`.
        pretrained: Checkpoint of this classifier, a file or an http(s) address; the authors'
            released ones as they are. Defaults to False: the weights are random.

    Returns:
        mmpretrain's ``ImageClassifier`` in eval mode, on the CPU.

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
    if name not in NETWORKS:
        raise ValueError(f'name must be one of {", ".join(list_models())}, got {name!r}')
    if pretrained is True:
        raise ValueError(
            'pretrained must be a checkpoint or False, got True: no weights are hosted'
        )
    weights = read_state_dict(pretrained) if pretrained else None
    import mmpretrain.models  # noqa: F401  # registers ImageClassifier

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(deepcopy(NETWORKS[name]))
    if weights is None:
        model.init_weights()
        return model.eval()
    if is_released(weights):
        weights = from_released(weights)
    try:
        check_fit(model.state_dict(), weights)
    except ValueError as error:
        raise ValueError(f'checkpoint {pretrained} is not of {name}: {error}') from None
    model.load_state_dict(weights)
    print_log(f'Loaded {name} from {pretrained}', logger='current')
    return model.eval()

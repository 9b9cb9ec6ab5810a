"""Find the backbone in a model's config, and the weights from which it starts."""

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

from ..checkpoints import CheckpointReader
from ..datasets import type_name
from .config import ConfigError


def find_backbone_config(cfg: Config) -> dict[str, ConfigDict]:
    """Find the backbone that a config trains, also of the detector inside another model.

    Returns:
        The parts of the config from the model to the backbone, by their settings, such as
        ``model``, ``model.detector`` and ``model.detector.backbone``.

    Raises:
        ConfigError: If the model has no backbone, or several that may be meant.
    """
    found = [*_find_backbones({'model': cfg.model})]
    without_teachers = [parts for parts in found if 'teacher' not in [*parts][-1]]
    found = without_teachers if len(without_teachers) == 1 else found
    if not found:
        raise ConfigError(f'model must have a backbone, got a {type_name(cfg.model)}')
    settings = [[*parts][-1] for parts in found]
    if len(found) > 1:
        raise ConfigError(
            f'model must have one backbone, got {" and ".join(settings)}: give one of them weights '
            f'by --cfg-options {settings[0]}.init_cfg.type=Pretrained '
            f'{settings[0]}.init_cfg.checkpoint=PATH'
        )
    return found[0]


def _find_backbones(parts: dict[str, ConfigDict]) -> Iterator[dict[str, ConfigDict]]:
    setting, node = [*parts.items()][-1]
    if isinstance(node, dict) and isinstance(node.get('backbone'), dict):
        yield {**parts, f'{setting}.backbone': node['backbone']}
    elif isinstance(node, (dict, list, tuple)):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _find_backbones({**parts, f'{setting}.{name}': child})


def set_pretrained(cfg: Config, path: str, reader: CheckpointReader) -> None:
    """Let the backbone start from the weights in ``path``, a file or an http(s) address.

    Raises:
        ConfigError: If the model has no backbone, or several, or a part that contains the backbone
            loads other weights afterwards.
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the file cannot be read.
    """
    parts = find_backbone_config(cfg)
    setting, backbone = parts.popitem()
    for outer, part in parts.items():
        if _loads_weights(part):
            raise ConfigError(
                f'pretrained gives weights to {setting}, but {outer}.init_cfg loads other weights '
                f'into it afterwards: set {outer}.init_cfg=None'
            )
    try:
        reader.read(path)  # refuse what cannot be read before all work
    except FileNotFoundError:
        raise FileNotFoundError(
            f'pretrained must be a checkpoint, but {path} does not exist'
        ) from None
    backbone.init_cfg = dict(type='Pretrained', checkpoint=path)


def starts_from_scratch(cfg: Config) -> bool:
    """Return whether a run starts from random weights although it needs pretrained ones.

    Detectors and segmenters need pretrained weights. A classifier needs them only if stages of its
    backbone are frozen.
    """
    scope = cfg.get('default_scope')
    found = [*_find_backbones({'model': cfg.model})]
    backbones = [[*parts.values()][-1] for parts in found]
    numbers = [backbone.get('frozen_stages') for backbone in backbones]
    frozen = any(isinstance(number, int) and number >= 0 for number in numbers)
    if scope not in ('mmdet', 'mmseg') and not (scope == 'mmpretrain' and frozen):
        return False
    pretrained = any(_loads_weights(part) for parts in found for part in parts.values())
    return not (pretrained or cfg.get('load_from') or cfg.get('resume'))


def _loads_weights(part: ConfigDict) -> bool:
    """Return whether the ``init_cfg`` of a part of a model's config loads a checkpoint."""
    init_cfg = (part.get('init_cfg') if isinstance(part, dict) else None) or []
    init_cfgs = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    # The class of the type Pretrained is PretrainedInit.
    return any(type_name(x) in ('Pretrained', 'PretrainedInit') for x in init_cfgs)

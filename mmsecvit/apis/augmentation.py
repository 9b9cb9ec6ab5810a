"""Test with augmentation: what ``tools/test.py --tta`` adds."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict

from ..datasets import type_name
from ..datasets.nodes import find_nodes
from ..errors import InputError


def set_tta(cfg: Config) -> None:
    """Test with augmentation: by the config's ``tta_model`` and ``tta_pipeline``.

    As in the toolboxes' own tools, a detector or a classifier for which the config has none is
    tested with and without a horizontal flip.

    Raises:
        InputError: If the config of a segmenter has none.
    """
    scope = cfg.get('default_scope')
    for name in ('tta_model', 'tta_pipeline'):
        if name not in cfg and scope not in ('mmdet', 'mmpretrain'):
            raise InputError(f'tta needs {name} in the config, as in the configs of mmseg')
    if 'tta_model' not in cfg:
        nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        flips = dict(
            mmdet=dict(type='DetTTAModel', tta_cfg=nms),
            mmpretrain=dict(type='mmpretrain.AverageClsScoreTTA'),
        )
        cfg.tta_model = flips[scope]
    for _, dataset in find_nodes(cfg.test_dataloader, '', lambda node: 'pipeline' in node):
        dataset.pipeline = cfg.get('tta_pipeline') or _add_flip(dataset.pipeline)
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)


def _add_flip(pipeline: list) -> list:
    """Return a test pipeline that packs an image and its mirror image."""
    *steps, pack = deepcopy(pipeline)
    if pack.get('meta_keys'):  # the toolboxes' defaults have both
        pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def find_lost_changes(cfg: Config, splits: Iterable[str]) -> Iterator[str]:
    """Find what moves the objects of a detector's test images, which mmdet does not undo.

    Yields:
        Sentences for the log.
    """
    if cfg.get('default_scope') != 'mmdet':
        return
    for name in [f'{split}_dataloader' for split in splits if split != 'train']:
        for setting, dataset in find_nodes(cfg.get(name), name, lambda node: 'pipeline' in node):
            kinds = [type_name(step) for step in dataset.pipeline or () if _moves_objects(step)]
            if kinds:
                yield (
                    f'{setting}.pipeline should be without {", ".join(kinds)}: mmdet compares the '
                    'boxes of a changed image with those of the original one, so that AP is too '
                    'low.'
                )


def _moves_objects(step: ConfigDict) -> bool:
    if type_name(step) == 'RandomFlip':
        prob = step.get('prob') or 0
        return sum(prob if isinstance(prob, (list, tuple)) else [prob]) > 0
    return type_name(step) == 'RandomCrop'


def check_merging(model: Any) -> None:
    """Raise an InputError if a test with augmentation would end at the first image."""
    if type(model).__name__ == 'DetTTAModel' and getattr(model.module, 'with_mask', False):
        raise InputError(
            "mmdet's DetTTAModel merges boxes, no masks, and the model predicts masks: test it "
            'without augmentation'
        )

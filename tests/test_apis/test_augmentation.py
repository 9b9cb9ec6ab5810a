import pytest
from mmengine.config import Config

from mmsecvit.apis.augmentation import find_lost_changes, set_tta

STEPS = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs', meta_keys=('img_id',))]


def find(*steps: dict, scope: str = 'mmdet', tta: bool = False) -> list[str]:
    dataset = dict(type='CocoDataset', pipeline=[STEPS[0], *steps, STEPS[1]])
    loader = dict(dataset=dict(type='ConcatDataset', datasets=[dataset]))
    cfg = Config(
        dict(default_scope=scope, model={}, train_dataloader=loader, test_dataloader=loader)
    )
    if tta:
        set_tta(cfg)
    return [*find_lost_changes(cfg, ('train', 'test'))]


@pytest.mark.parametrize(
    'step',
    [
        dict(type='RandomFlip', prob=0.5),
        dict(type='mmdet.RandomFlip', prob=[0.5, 0.25]),
        dict(type='RandomCrop', crop_size=(64, 64)),
    ],
)
def test_what_moves_the_objects_of_test_images_is_said(step):
    (warning,) = find(step)
    kind = step['type'].removeprefix('mmdet.')
    start = f'test_dataloader.dataset.datasets.0.pipeline should be without {kind}: mmdet compares'
    assert warning.startswith(start)
    assert find(step, scope='mmseg') == []


def test_what_leaves_objects_or_is_undone_is_not_said():
    assert find(dict(type='RandomFlip', prob=0.0), dict(type='Resize', scale=64)) == []
    assert find(tta=True) == []

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

CONFIGS = Path(__file__).parents[2] / 'configs'
SIZES = ['t', 's', 'b', 'l']


def load(size, schedule):
    return Config.fromfile(CONFIGS / f'mask_rcnn_secvit_{size}_{schedule}.py')


# Whole models counted with the toolbox's heads; Table 3 has 34, 45, 73 and 115.
@pytest.mark.parametrize(
    ('size', 'millions'), [('t', 33.58), ('s', 45.37), ('b', 73.31), ('l', 115.08)]
)
def test_parameters(size, millions):
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(load(size, '1x').model)
    total = sum(p.numel() for p in model.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize('schedule', ['1x', '3x'])
@pytest.mark.parametrize('size', SIZES)
def test_recipe_is_the_papers(size, schedule):
    cfg = load(size, schedule)
    epochs, milestones = {'1x': (12, [8, 11]), '3x': (36, [27, 33])}[schedule]
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.by_epoch) == ('LinearLR', False)
    assert (steps.type, steps.end, steps.milestones) == ('MultiStepLR', epochs, milestones)
    assert dict(cfg.optim_wrapper.optimizer) == dict(type='AdamW', lr=1e-4, weight_decay=0.05)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16

    train_resize = cfg.train_dataloader.dataset.pipeline[2]
    if schedule == '1x':
        assert (train_resize.type, train_resize.scale) == ('Resize', (1333, 800))
    else:
        assert (train_resize.type, train_resize.scale) == (
            'RandomResize',
            [(1333, 480), (1333, 800)],
        )
    assert train_resize.keep_ratio
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)


@pytest.mark.parametrize('size', SIZES)
def test_backbone_is_the_released_one_with_norms_for_dense_prediction(size):
    backbone = load(size, '3x').model.backbone
    assert backbone.type == 'SecViT'
    assert backbone.arch == {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}[size]
    assert backbone.variant == 'released'
    assert backbone.norm_cfg.type == 'SyncBN'
    assert backbone.out_norm


def test_norms_and_only_norms_are_free_of_weight_decay():
    cfg = load('t', '1x')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    of_norms = {
        p
        for m in model.modules()
        if isinstance(m, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm))
        for p in m.parameters()
    }
    groups = {0.0: set(), 0.05: set()}
    for group in optimizer.param_groups:
        groups[group['weight_decay']].update(group['params'])
    assert groups[0.0] == of_norms
    assert groups[0.05] == set(model.parameters()) - of_norms


@pytest.mark.parametrize('width', [352, 333])
def test_one_step_on_real_images_reaches_every_backbone_parameter(coco128, width):
    cfg = load('t', '3x')
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(coco128),
            'train_dataloader.dataset.pipeline.2': dict(
                type='Resize', scale=(width, 160), keep_ratio=False
            ),
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'model.backbone.norm_cfg.type': 'BN',
            'model.train_cfg.rcnn.sampler.num': 32,
        }
    )
    from mmengine.runner import Runner

    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).train()
        data = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    data = model.data_preprocessor(data, training=True)
    loss, values = model.parse_losses(model.forward(**data, mode='loss'))
    loss.backward()
    assert all(torch.isfinite(value) for value in values.values())
    without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
    assert without == []

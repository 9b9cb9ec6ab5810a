"""Learning rates that decay layer by layer, of every parameter of SecViT-T."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmsecvit.engine import LayerDecayOptimWrapperConstructor

CONFIGS = Path(__file__).parents[2] / 'configs'
DECAY = 0.8
DEPTHS = (2, 2, 9, 2)  # Table 8


def expected_scale(name):
    """0.8 for each layer between a parameter and the heads: 15 blocks, and the stem below them."""
    match name.split('.'):
        case ['backbone', 'stem', *_]:
            layer = 0
        case ['backbone', 'stages', i, j, *_]:
            layer = sum(DEPTHS[: int(i)]) + int(j) + 1
        case ['backbone', 'downsamples', i, *_]:
            layer = sum(DEPTHS[: int(i) + 1])
        case _:  # output norms, neck and heads
            layer = 16
    return DECAY ** (16 - layer)


def build(config, optim_wrapper):
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        return model, build_optim_wrapper(model, optim_wrapper).optimizer


def optim_wrapper(constructor, **paramwise):
    return dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        constructor=constructor,
        paramwise_cfg=dict(layer_decay_rate=DECAY, **paramwise),
    )


def check_rates(model, optimizer, multipliers=None):
    rates = {p: group['lr'] for group in optimizer.param_groups for p in group['params']}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        factor = next((f for key, f in (multipliers or {}).items() if key in name), 1.0)
        expected = 1e-3 * expected_scale(name) * factor
        assert rates[parameter] == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize(
    'constructor', ['LearningRateDecayOptimWrapperConstructor', 'LayerDecayOptimWrapperConstructor']
)
def test_classifier(constructor):
    pytest.importorskip('mmpretrain')
    model, optimizer = build('secvit_t_in1k', optim_wrapper(constructor))
    check_rates(model, optimizer)
    assert min(group['lr'] for group in optimizer.param_groups) == pytest.approx(1e-3 * DECAY**16)


@pytest.mark.parametrize('config', ['semantic_fpn_secvit_t_80k', 'mask_rcnn_secvit_t_1x'])
def test_segmenter_and_detector(config):
    constructor = optim_wrapper(
        'LayerDecayOptimWrapperConstructor',
        norm_decay_mult=0.0,
        custom_keys=dict(rpn_head=dict(lr_mult=2.0), decode_head=dict(lr_mult=2.0)),
    )
    model, optimizer = build(config, constructor)
    check_rates(model, optimizer, dict(rpn_head=2.0, decode_head=2.0))
    decay = {p: group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert decay[model.backbone.stages[2][0].norm1.weight] == 0.0
    assert decay[model.backbone.stages[2][0].attn.qkv.weight] == 0.05


def test_frozen_stages_have_no_rates():
    cfg = Config.fromfile(CONFIGS / 'semantic_fpn_secvit_t_80k.py')
    cfg.model.backbone.frozen_stages = 1
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, optim_wrapper('LayerDecayOptimWrapperConstructor'))
    trained = {p for group in wrapper.optimizer.param_groups for p in group['params']}
    assert trained == {p for p in model.parameters() if p.requires_grad}
    assert not trained & set(model.backbone.stages[0].parameters())


def test_the_toolboxes_constructors_do_not_know_segmenters_with_secvit():
    """Once they do, LayerDecayOptimWrapperConstructor can go."""
    pytest.importorskip('mmpretrain')
    with pytest.raises(NotImplementedError):
        build(
            'semantic_fpn_secvit_t_80k',
            optim_wrapper('mmpretrain.LearningRateDecayOptimWrapperConstructor'),
        )
    cfg = optim_wrapper('LearningRateDecayOptimizerConstructor', num_layers=15, decay_rate=DECAY)
    with pytest.raises(NotImplementedError):
        build('semantic_fpn_secvit_t_80k', cfg)


def test_a_backbone_without_layer_depths_is_named():
    constructor = LayerDecayOptimWrapperConstructor(
        dict(optimizer=dict(type='SGD', lr=0.1)), dict(layer_decay_rate=0.5)
    )
    model = torch.nn.ModuleDict(dict(backbone=torch.nn.Linear(2, 2)))
    with pytest.raises(ValueError, match='needs a backbone with get_layer_depth, got Linear'):
        constructor(model)


def test_an_optimizer_without_a_learning_rate_is_named():
    constructor = LayerDecayOptimWrapperConstructor(
        dict(optimizer=dict(type='AdamW')), dict(layer_decay_rate=0.5, bias_lr_mult=2.0)
    )
    model = torch.nn.ModuleDict(dict(backbone=torch.nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="needs optim_wrapper.optimizer.lr .* {'type': 'AdamW'}$"):
        constructor(model)

import pytest
from mmengine.config import Config

from mmsecvit.apis.config import (
    adapt_to_cpu,
    load_config,
    set_amp,
    set_pretrained,
    set_tensorboard,
    set_visualization,
    starts_from_scratch,
)
from mmsecvit.checkpoints import CheckpointReader

PRETRAINED = dict(type='Pretrained', checkpoint='weights.pth')
NORMAL = dict(type='TruncNormal', layer='Linear', std=0.02)


@pytest.mark.parametrize(
    ('init_cfg', 'expected'),
    [(None, True), (NORMAL, True), (PRETRAINED, False), ([NORMAL], True), ([PRETRAINED], False)],
)
def test_weights_of_the_backbone_are_no_start_from_scratch(init_cfg, expected):
    model = dict(type='RetinaNet', backbone=dict(type='SecViT', init_cfg=init_cfg))
    cfg = Config(dict(default_scope='mmdet', model=model))
    assert starts_from_scratch(cfg) == expected


def test_cpus_get_plain_batch_norms():
    heads = [dict(norm_cfg=dict(type='MMSyncBN')), dict(norm_cfg=dict(type='GN', num_groups=32))]
    backbone = dict(norm_cfg=dict(type='SyncBN'))
    cfg = Config(dict(model=dict(type='X', backbone=backbone, heads=heads)))
    adapt_to_cpu(cfg)
    norms = [part.norm_cfg.type for part in (cfg.model.backbone, *cfg.model.heads)]
    assert norms == ['BN', 'BN', 'GN']


def test_fsdp_stays_on_the_cpu_and_frees_nothing_there():
    strategy = dict(type='FSDPStrategy', state_dict_cfg='full')
    cfg = Config(dict(model=dict(type='X'), strategy=strategy))
    adapt_to_cpu(cfg)
    assert cfg.strategy.model_wrapper == dict(device_id='cpu')
    kept = cfg.strategy.state_dict_cfg
    assert kept.state_dict_type == 'FULL_STATE_DICT'
    assert not kept.state_dict_config.offload_to_cpu
    assert not kept.optim_state_dict_config.offload_to_cpu


def test_amp_keeps_what_else_the_wrapper_does():
    clip_grad = dict(max_norm=1.0)
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW'), clip_grad=clip_grad)))
    set_amp(cfg)
    expected = dict(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=clip_grad)
    assert cfg.optim_wrapper == expected | dict(optimizer=dict(type='AdamW'))
    with pytest.raises(ValueError, match='got a config with ApexOptimWrapper'):
        set_amp(Config(dict(optim_wrapper=dict(type='ApexOptimWrapper'))))


def test_an_absent_config_is_named():
    with pytest.raises(FileNotFoundError, match='^config configs/mine.py does not exist$'):
        load_config('configs/mine.py')


def test_options_for_what_a_config_lacks_are_refused():
    cfg = Config(dict(model=dict(type='GAN')))
    with pytest.raises(ValueError, match='pretrained needs a model with a backbone, got a GAN'):
        set_pretrained(cfg, 'weights.pth', CheckpointReader())
    with pytest.raises(ValueError, match='need default_hooks.visualization in the config'):
        set_visualization(cfg, show=True, show_dir=None, wait_time=1.0)
    pytest.importorskip('tensorboard')
    with pytest.raises(ValueError, match='tensorboard needs a visualizer in the config'):
        set_tensorboard(cfg)

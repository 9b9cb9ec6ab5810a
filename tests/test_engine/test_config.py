import pytest
from mmengine.config import Config

from mmsecvit.engine.config import adapt_to_cpu, starts_from_scratch

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

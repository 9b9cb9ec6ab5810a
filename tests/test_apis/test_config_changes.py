import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch.nn import SyncBatchNorm

from mmsecvit.apis.config_changes import (
    fill_in_engine,
    set_amp,
    set_tensorboard,
    set_visualization,
    without_sync_batch_norm,
)
from mmsecvit.engine import InterruptionHook, StepSeedHook

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_cpus_get_plain_batch_norms():
    heads = [
        dict(norm_cfg=dict(type='MMSyncBN')),
        dict(norm_cfg=dict(type=SyncBatchNorm)),
        dict(norm_cfg=dict(type='mmcv.SyncBN')),
        dict(norm_cfg=dict(type='GN', num_groups=32)),
    ]
    backbone = dict(norm_cfg=dict(type='SyncBN'))
    cfg = Config(dict(model=dict(type='X', backbone=backbone, heads=heads)))
    before = cfg.to_dict()
    model = without_sync_batch_norm(cfg.model)
    norms = [part.norm_cfg.type for part in (model.backbone, *model.heads)]
    assert norms == ['BN', 'BN', 'BN', 'BN', 'GN']
    assert cfg.to_dict() == before


OURS = {
    'checkpoint': dict(type='AtomicCheckpointHook', interval=1),
    'interruption': dict(type='InterruptionHook'),
    'sampler_seed': dict(type='StepSeedHook'),
}


def test_engine_is_filled_in_where_a_config_has_the_defaults():
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=3)))
    message = fill_in_engine(cfg)
    assert cfg.default_hooks == OURS
    assert cfg.train_cfg == dict(type='ResumableEpochLoop', max_epochs=3)
    assert cfg.custom_imports == dict(imports=['mmsecvit'])
    assert message == (
        "tools/train.py replaced mmengine's defaults in the config: "
        "default_hooks.checkpoint={'type': 'AtomicCheckpointHook', 'interval': 1}, "
        "default_hooks.interruption.type='InterruptionHook', "
        "default_hooks.sampler_seed.type='StepSeedHook', train_cfg.type='ResumableEpochLoop', "
        'without train_cfg.by_epoch=True.'
    )
    before = cfg.to_dict()
    assert fill_in_engine(cfg) == ''
    assert cfg.to_dict() == before


def test_engine_is_filled_in_for_the_defaults_of_the_toolboxes():
    cfg = Config(
        dict(
            custom_imports=dict(imports='mine', allow_failed_imports=False),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=2),
                sampler_seed=dict(type='DistSamplerSeedHook'),
            ),
            strategy=dict(type='FSDPStrategy', state_dict_cfg='full'),
        )
    )
    assert fill_in_engine(cfg)
    assert cfg.default_hooks == OURS | dict(
        checkpoint=dict(type='AtomicCheckpointHook', interval=2)
    )
    assert cfg.train_cfg == dict(type='ResumableEpochLoop', max_epochs=3)
    assert cfg.strategy == dict(type='ResumableFSDPStrategy', state_dict_cfg='full')
    assert cfg.custom_imports == dict(
        imports=['mine', 'mmsecvit', 'mmsecvit.engine.strategies'], allow_failed_imports=False
    )


PURE_PYTHON = """
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook
from mmengine.runner import EpochBasedTrainLoop
default_hooks = dict(
    checkpoint=dict(type=CheckpointHook, interval=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=3)
strategy = dict(type='mmengine.FSDPStrategy')
"""
SCOPED = """
default_hooks = dict(
    checkpoint=dict(type='mmengine.CheckpointHook', interval=2),
    sampler_seed=dict(type='mmengine.DistSamplerSeedHook'),
)
train_cfg = dict(type='mmengine.EpochBasedTrainLoop', max_epochs=3)
strategy = dict(type='mmengine.FSDPStrategy')
"""


@pytest.mark.parametrize('text', [PURE_PYTHON, SCOPED], ids=['classes', 'names with a scope'])
def test_engine_is_filled_in_for_classes_and_for_names_with_a_scope(tmp_path, text):
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert fill_in_engine(cfg)
    cfg.dump(tmp_path / 'dumped.py')
    for filled_in in (cfg, Config.fromfile(tmp_path / 'dumped.py')):
        assert filled_in.default_hooks == OURS | dict(
            checkpoint=dict(type='AtomicCheckpointHook', interval=2)
        )
        assert filled_in.train_cfg == dict(type='ResumableEpochLoop', max_epochs=3)
        assert filled_in.strategy == dict(type='ResumableFSDPStrategy')
        assert fill_in_engine(filled_in) == ''


@pytest.mark.parametrize(
    'hooks',
    [
        dict(default_hooks=dict(sampler_seed=dict(type='StepSeedHook'))),
        dict(default_hooks=dict(sampler_seed=dict(type=StepSeedHook))),
        dict(custom_hooks=[dict(type='InterruptionHook')]),
        dict(custom_hooks=[dict(type='mmsecvit.InterruptionHook')]),
        dict(custom_hooks=[dict(type=InterruptionHook)]),
        dict(
            default_hooks=dict(
                sampler_seed=dict(type='DistSamplerSeedHook'),
                interruption=dict(type='InterruptionHook'),
            )
        ),
    ],
)
def test_a_config_leaves_out_one_hook_by_naming_the_other(hooks):
    cfg = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=3), **hooks))
    cfg.merge_from_dict({'default_hooks.checkpoint': dict(type='MyHook')})
    before = cfg.to_dict()
    assert fill_in_engine(cfg) == ''
    assert cfg.to_dict() == before


NO_INTERRUPTION = dict(interruption=None, sampler_seed=dict(type='DistSamplerSeedHook'))


@pytest.mark.parametrize(
    ('hooks', 'filled_in'),
    [
        (dict(checkpoint=None, sampler_seed=None), dict(interruption=OURS['interruption'])),
        (NO_INTERRUPTION, dict(checkpoint=OURS['checkpoint'])),
        (dict(interruption=None), dict(checkpoint=OURS['checkpoint'])),
        (None, OURS),
    ],
)
def test_hooks_that_a_config_switched_off_stay_off(hooks, filled_in):
    train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
    cfg = Config(dict(train_cfg=train_cfg, default_hooks=hooks))
    fill_in_engine(cfg)
    assert cfg.default_hooks == (hooks or {}) | filled_in


def test_hooks_of_our_bases_can_be_switched_off(tmp_path):
    base = CONFIGS / '_base_' / 'runtimes' / 'mmseg.py'
    path = tmp_path / 'mine.py'
    train_cfg = dict(type='ResumableEpochLoop', max_epochs=3)
    path.write_text(
        f'_base_ = {str(base)!r}\ndefault_hooks = {NO_INTERRUPTION}\ntrain_cfg = {train_cfg}\n'
    )
    cfg = Config.fromfile(path)
    assert fill_in_engine(cfg) == ''
    assert cfg.default_hooks.interruption is None
    assert cfg.default_hooks.sampler_seed.type == 'DistSamplerSeedHook'


def test_options_of_a_hook_without_a_type_are_the_default_hooks():
    cfg = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=30)))
    cfg.merge_from_dict({'default_hooks.checkpoint.interval': 10})
    fill_in_engine(cfg)
    assert cfg.default_hooks == OURS | dict(
        checkpoint=dict(type='AtomicCheckpointHook', interval=10)
    )


@pytest.mark.parametrize(
    ('hooks', 'message'),
    [
        (
            dict(default_hooks=dict(logger=dict(interval=10))),
            "default_hooks.logger must have a type, got {'interval': 10}",
        ),
        (
            dict(default_hooks=dict(sampler_seed=dict())),
            'default_hooks.sampler_seed must have a type, got {}',
        ),
        (
            dict(custom_hooks=[dict(type='EMAHook'), dict(momentum=0.1)]),
            "custom_hooks.1 must have a type, got {'momentum': 0.1}",
        ),
    ],
)
def test_other_hooks_without_a_type_are_named(hooks, message):
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        fill_in_engine(Config(hooks))


def test_a_config_that_trains_nothing_gets_hooks_only():
    cfg = Config(dict(model=dict(type='RetinaNet')))
    fill_in_engine(cfg)
    assert cfg.default_hooks == OURS
    assert 'train_cfg' not in cfg


def test_amp_keeps_what_else_the_wrapper_does():
    clip_grad = dict(max_norm=1.0)
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW'), clip_grad=clip_grad)))
    set_amp(cfg)
    expected = dict(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=clip_grad)
    assert cfg.optim_wrapper == expected | dict(optimizer=dict(type='AdamW'))
    for kind in (OptimWrapper, 'mmengine.AmpOptimWrapper'):
        cfg = Config(dict(optim_wrapper=dict(type=kind)))
        set_amp(cfg)
        assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
    with pytest.raises(ValueError, match='got a config with ApexOptimWrapper'):
        set_amp(Config(dict(optim_wrapper=dict(type='ApexOptimWrapper'))))
    with pytest.raises(ValueError, match='amp needs an optim_wrapper in the config'):
        set_amp(Config())


def test_options_for_what_a_config_lacks_are_refused():
    cfg = Config(dict(model=dict(type='GAN')))
    with pytest.raises(ValueError, match='need default_hooks.visualization in the config'):
        set_visualization(cfg, show=True, show_dir=None, wait_time=1.0)
    pytest.importorskip('tensorboard')
    with pytest.raises(ValueError, match='tensorboard needs a visualizer in the config'):
        set_tensorboard(cfg)

_base_ = 'mmpretrain::_base_/default_runtime.py'
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', save_best='accuracy/top1'),
    sampler_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)

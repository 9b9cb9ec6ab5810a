_base_ = 'mmdet::_base_/default_runtime.py'
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', save_best='coco/bbox_mAP'),
    sampler_seed=dict(type='StepSeedHook'),
    interruption=dict(type='InterruptionHook'),
)

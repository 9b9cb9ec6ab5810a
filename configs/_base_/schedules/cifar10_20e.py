# ImageNet's schedule, shortened to minutes on one GPU, without the moving average of the weights:
# it would need more steps.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=2,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=2,
        end=20,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(_delete_=True, type='ResumableEpochLoop', max_epochs=20)
auto_scale_lr = dict(base_batch_size=256)

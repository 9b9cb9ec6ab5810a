# Minutes on one GPU: ImageNet's recipe but for its length and its moving average, which needs more
# steps than there are.
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

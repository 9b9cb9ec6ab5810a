# Appendix B: 300 epochs of AdamW with batch size 1024, 5 epochs of warm-up, then a cosine. The base
# has the learning rate and the weight decay (none for norms, biases and LayerScale).
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=300),
]
train_cfg = dict(_delete_=True, type='ResumableEpochLoop', max_epochs=300)
# The paper gives no rate for the moving average of the weights. This is DeiT's, 0.99996 per step.
custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]

# Appendix B: 300 epochs of AdamW at batch size 1024, 5 of them warm-up, then a cosine. No decay on
# norms, biases and LayerScale: the base has that, the learning rate and the weight decay.
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
# The paper names the average but no rate: this is DeiT's, 0.99996 a step.
custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]

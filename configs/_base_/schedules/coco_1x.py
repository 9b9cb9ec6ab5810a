_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05),
    # No weight decay of norms.
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
train_cfg = dict(type='ResumableEpochLoop')

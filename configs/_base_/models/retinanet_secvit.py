_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
custom_imports = dict(imports=['mmsecvit'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='SecViT',
        arch='tiny',
        variant='released',
        norm_cfg=dict(type='SyncBN'),
        out_norm=True,
        # The FPN starts at stage 2: an output norm of stage 1 would never get a gradient.
        out_indices=(1, 2, 3),
    ),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)

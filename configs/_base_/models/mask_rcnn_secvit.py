_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
custom_imports = dict(imports=['mmsecvit'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='SecViT',
        arch='tiny',
        variant='released',
        norm_cfg=dict(type='SyncBN'),
        out_norm=True,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

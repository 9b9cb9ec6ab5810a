_base_ = './classifier.py'
model = dict(
    backbone=dict(type='SecViT', arch='tiny', variant='released', out_indices=(3,)),
    neck=dict(_delete_=True, type='SecViTNeck', in_channels=512),
    head=dict(in_channels=1024),
)

_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/imagenet_300e.py',
    './_base_/runtimes/mmpretrain.py',
]
model = dict(
    backbone=dict(type='SECFasterViT', arch='0', out_indices=(3,)),
    head=dict(in_channels=512),
)

_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/imagenet_300e.py',
    './_base_/runtimes/mmpretrain.py',
]
model = dict(
    backbone=dict(type='SECSwin', arch='tiny', out_indices=(3,)),
    head=dict(in_channels=768),
)

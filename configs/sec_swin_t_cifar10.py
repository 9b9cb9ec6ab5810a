_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/cifar10_96.py',
    './_base_/schedules/cifar10_20e.py',
    './_base_/runtimes/mmpretrain.py',
]
# No mixing of images: short training does not profit from it.
model = dict(
    backbone=dict(type='SECSwin', arch='tiny', out_indices=(3,), drop_path_rate=0.1),
    head=dict(num_classes=10, in_channels=768),
    train_cfg=None,
)

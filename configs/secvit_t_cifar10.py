_base_ = [
    './_base_/models/classifier_secvit.py',
    './_base_/datasets/cifar10_96.py',
    './_base_/schedules/cifar10_20e.py',
    './_base_/runtimes/mmpretrain.py',
]
# No mixing of images: short training does not profit from it.
model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.1),
    head=dict(num_classes=10),
    train_cfg=None,
)

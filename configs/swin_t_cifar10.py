_base_ = [
    './_base_/models/classifier.py',
    './_base_/datasets/cifar10_96.py',
    './_base_/schedules/cifar10_20e.py',
    './_base_/runtimes/mmpretrain.py',
]
# No mixing of images: short training does not profit from it.
# Windows of 6x6 divide the maps of the first three stages. The last map, 3x3, is padded.
model = dict(
    backbone=dict(
        type='SwinTransformer',
        arch='tiny',
        img_size=96,
        window_size=6,
        pad_small_map=True,
        drop_path_rate=0.1,
    ),
    head=dict(num_classes=10, in_channels=768),
    # The initialization of Swin in mmpretrain, and of SEC-Swin in this package.
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
    train_cfg=None,
)

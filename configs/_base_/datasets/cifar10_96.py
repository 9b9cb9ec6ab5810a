# CIFAR-10, enlarged to 96x96. The four stages have 24, 12, 6 and 3 tokens on a side. The default
# clusters hold 18, 18, 18 and 9 tokens (98, 98, 98 and 49 at 224x224).
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='Resize', scale=96, interpolation='bicubic'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='Resize', scale=96, interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=256, num_workers=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=256, num_workers=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

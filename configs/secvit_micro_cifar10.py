# A network for CPUs: half of SecViT-T's width and a third of its depth, images of 64x64, a fifth of
# the training images and a tenth of the test images.
_base_ = './secvit_t_cifar10.py'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=[32, 64, 128, 192],
            depths=[1, 1, 3, 1],
            num_heads=[2, 4, 8, 12],
        ),
        drop_path_rate=0.0,
        # At 64x64 there are 256, 64, 16 and 4 tokens.
        num_clusters=(8, 4, 1, 1),
    ),
    neck=dict(in_channels=192, out_channels=256),
    head=dict(in_channels=256),
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='Resize', scale=64, interpolation='bicubic'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='Resize', scale=64, interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(pipeline=train_pipeline, indices=10000),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(pipeline=test_pipeline, indices=1000),
)
test_dataloader = val_dataloader

# The demo with mmdet's Swin of the same FLOPs instead of SecViT.
_base_ = './mask_rcnn_secvit_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=32,
        depths=(2, 2, 3, 2),
        num_heads=(2, 4, 8, 16),
        mlp_ratio=3,  # as SecViT
        window_size=4,  # windows of 7x7 do not divide the maps of 32, 16, 8 and 4 tokens on a side
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 128, 256]),
)

# The demo with mmpretrain's ConvNeXt of the same FLOPs instead of SecViT.
_base_ = './mask_rcnn_secvit_digits.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[2, 2, 6, 2], channels=[32, 64, 128, 192]),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        drop_path_rate=0.0,
    ),
)

# What the segmenters share: everything except neck and heads.
custom_imports = dict(imports=['mmsecvit'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='SecViT',
        arch='tiny',
        variant='released',
        norm_cfg=dict(type='SyncBN'),
        out_norm=True,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

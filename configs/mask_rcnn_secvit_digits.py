# The demo: Mask R-CNN with a small SecViT on scenes of handwritten digits. It trains in minutes on
# two CPU cores: this is why numbers differ from COCO's.
_base_ = [
    './_base_/models/mask_rcnn_secvit.py',
    './_base_/datasets/coco_instance.py',
    './_base_/runtimes/mmdet.py',
]
classes = tuple('0123456789')

# The backbone has half of SecViT-T's width, a third of its depth, and heads of 16 channels, not 32.
# At 128x128 the default clusters have 32 tokens in each of the first three stages.
width = 48  # channels of everything after the backbone; COCO's models have 256
proposals = dict(nms_pre=100, max_per_img=50)  # a scene has 5 digits at most
roi_layer = dict(sampling_ratio=1)  # a digit has about 7x7 cells of the map: a bin is about one
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=[32, 64, 128, 192],
            depths=[1, 1, 3, 1],
            num_heads=[2, 4, 8, 12],
        ),
    ),
    neck=dict(in_channels=[32, 64, 128, 192], out_channels=width),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        # Boxes have 15 to 52 pixels: anchors begin at 16 instead of 32.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, roi_layer=roi_layer),
        # One box regression and one mask for all classes: training is too short for ten.
        bbox_head=dict(
            in_channels=width,
            fc_out_channels=256,
            num_classes=len(classes),
            reg_class_agnostic=True,
        ),
        # Masks of 14x14: the digits come from images of 8x8. To pool 14x14 for masks of 28x28 would
        # take a sixth of the time.
        mask_roi_extractor=dict(
            out_channels=width, roi_layer=dict(output_size=7, sampling_ratio=1)
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=width,
            conv_out_channels=width,
            num_classes=len(classes),
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=proposals,
        # 24 RoIs for each scene, half of them on digits: these have losses of boxes and masks.
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.5), mask_size=14),
    ),
    test_cfg=dict(rpn=proposals),
)

data_root = 'data/digit_scenes/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    # No flip: a mirrored digit is no digit.
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,  # it reads a batch in a tenth of the time of a step
    sampler=dict(_delete_=True, type='InfiniteSampler'),
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=classes),
        filter_cfg=dict(_delete_=True),  # every scene has digits, and no digit is too small
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

# Short training from scratch: twenty times the learning rate of fine-tuning on COCO, which falls to
# zero along a cosine.
max_iters = 700
warm_up = 50
optim_wrapper = dict(
    type='OptimWrapper',
    # Fused: to update one tensor after the other takes a tenth of a step on a CPU.
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warm_up),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=warm_up, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=False),
    # Short intervals, so that an interruption loses little work.
    checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=2),
    visualization=dict(score_thr=0.5),
)
log_processor = dict(by_epoch=False, window_size=20)
randomness = dict(seed=0)

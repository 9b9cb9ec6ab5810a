_base_ = [
    './_base_/models/mask_rcnn_secvit.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py',
    './_base_/runtimes/mmdet.py',
]
model = dict(
    backbone=dict(arch='base'),
    neck=dict(in_channels=[80, 160, 320, 512]),
)

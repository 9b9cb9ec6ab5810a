_base_ = [
    './_base_/models/cascade_mask_rcnn_secvit.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py',
    './_base_/runtimes/mmdet.py',
]
model = dict(backbone=dict(arch='tiny'))

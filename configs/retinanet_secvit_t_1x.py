_base_ = [
    './_base_/models/retinanet_secvit.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/coco_1x.py',
    './_base_/runtimes/mmdet.py',
]
model = dict(backbone=dict(arch='tiny'))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
